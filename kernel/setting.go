package kernel

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// settings watches the files of sysctls and of links' settings that weft has put or read: netlink does not tell of them. Where it cannot (the
// host's inotify is used up), what others write is found at the next reading.
type settings struct {
	log  *slog.Logger
	file *os.File // of inotify; nil: there is none

	mu   sync.Mutex // guards what follows
	keys map[spot]Key
	at   map[Key]spot
	due  map[string]map[Key]Spec // by namespace: what was read, and is to be watched
	full bool                    // that no more can be watched was said

	wake chan struct{} // size 1: due has something
}

// spot is a file of settings as inotify tells of it: what is watched is its directory, which a link has one of for all its settings of a family.
type spot struct {
	watch int32
	name  string
}

// settingsMax is how many settings are watched: each is about a kilobyte of the kernel's memory.
const settingsMax = 1 << 15

func (s *settings) open(log *slog.Logger) {
	s.log, s.keys, s.at, s.due, s.wake = log, map[spot]Key{}, map[Key]spot{}, map[string]map[Key]Spec{}, make(chan struct{}, 1)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		s.log.Warn("cannot hear who changes kernel settings; they are looked at every minute", "error", err)
		return
	}
	s.file = os.NewFile(uintptr(fd), "inotify")
}

func (s *settings) close() error {
	if s.file == nil {
		return nil
	}
	if err := s.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// settingFile is a setting, and its file below /proc/sys.
type settingFile struct {
	key  Key
	file string
}

// add watches settings of the calling thread's namespace, those of one directory together. One's own writes come before.
func (s *settings) add(all ...settingFile) {
	if s.file == nil {
		return
	}
	dirs := map[string][]settingFile{}
	for _, f := range all {
		dirs[path.Dir(f.file)] = append(dirs[path.Dir(f.file)], f)
	}
	for dir, files := range dirs {
		s.addDir(dir, files)
	}
}

func (s *settings) addDir(dir string, files []settingFile) {
	s.mu.Lock()
	room := len(s.keys) < settingsMax
	s.mu.Unlock()
	wd, err := 0, error(unix.ENOSPC)
	if room {
		err = s.control(func(fd int) (err error) {
			wd, err = unix.InotifyAddWatch(fd, "/proc/sys/"+dir, unix.IN_MODIFY)
			return err
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range files {
		if err == nil {
			at := spot{int32(wd), path.Base(f.file)}
			s.keys[at], s.at[f.key] = f.key, at
		}
	}
	if errors.Is(err, unix.ENOSPC) && !s.full {
		s.full = true
		s.log.Warn("no more kernel settings can be watched; the others are looked at every minute (see fs.inotify.max_user_watches)", "watched", len(s.keys))
	}
}

// watches tells whether a setting is watched. One whose link or namespace has gone is until that has been heard.
func (s *settings) watches(k Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.at[k]
	return ok || s.file == nil
}

// drop watches no longer what has gone with its link or namespace: the kernel keeps such watches.
func (s *settings) drop(which func(Key) bool) {
	if s.file == nil {
		return
	}
	gone := map[int32]bool{}
	s.mu.Lock()
	for at, k := range s.keys {
		if which(k) {
			gone[at.watch] = true
			delete(s.keys, at)
			delete(s.at, k)
		}
	}
	if len(gone) > 0 {
		for at := range s.keys {
			delete(gone, at.watch) // others are in the same directory
		}
	}
	s.mu.Unlock()
	_ = s.control(func(fd int) error { // one that has gone by itself is no error
		for wd := range gone {
			_, _ = unix.InotifyRmWatch(fd, uint32(wd))
		}
		return nil
	})
}

// later has a setting watched that came with its link, if it is not yet. See watchLater.
func (s *settings) later(o Object) {
	if s.watches(o.Key) {
		return
	}
	s.mu.Lock()
	if s.due[o.NS] == nil {
		s.due[o.NS] = map[Key]Spec{}
	}
	s.due[o.NS][o.Key] = o.Spec
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *settings) takeDue() map[string]map[Key]Spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.due
	s.due = map[string]map[Key]Spec{}
	return out
}

func (s *settings) control(f func(fd int) error) error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	err = raw.Control(func(fd uintptr) { ferr = f(int(fd)) })
	return errors.Join(err, ferr)
}

// begin lets hear begin, also after a stop. It comes before hear has a goroutine of its own: a stop that follows at once is to end it.
func (s *settings) begin() error {
	if s.file == nil {
		return nil
	}
	return s.file.SetReadDeadline(time.Time{})
}

// hear tells which settings were written, until stop, and what read says that they are now: those that weft writes wake it too.
func (s *settings) hear(read func(Key) Spec, tell func(Change) bool) {
	if s.file == nil {
		return
	}
	buf := make([]byte, 4<<10)
	for {
		n, err := s.file.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; b = b[min(len(b), unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:]))):] {
			wd, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
			s.mu.Lock()
			k, ok := s.keys[spot{wd, text(b[unix.SizeofInotifyEvent:min(len(b), unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:])))])}]
			s.mu.Unlock()
			switch {
			case mask&unix.IN_Q_OVERFLOW != 0:
				tell(Change{Doubt: true})
			case ok && mask&unix.IN_MODIFY != 0:
				tell(Change{Key: k, Now: read(k)})
			}
		}
	}
}

// stop ends hear, also one that has not come so far yet.
func (s *settings) stop() error {
	if s.file == nil {
		return nil
	}
	return s.file.SetReadDeadline(time.Unix(1, 0))
}

// setting reads one that was written. What cannot be read has gone with its link or namespace.
func (k *Kernel) setting(key Key) Spec {
	file, err := key.Link, error(nil)
	if key.Kind == KindConf {
		file, err = ConfPath(key.Link, key.Dst)
	}
	if err != nil {
		return nil
	}
	var b []byte
	err = k.with(key.NS, func(c *conn) error {
		return inside(c.ns, func() (err error) {
			b, err = os.ReadFile("/proc/sys/" + file)
			return err
		})
	})
	if err != nil {
		return nil
	}
	value := strings.TrimSpace(string(b))
	if key.Kind == KindConf {
		return Conf{Value: value}
	}
	return Sysctl{Value: value}
}
