package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
)

// zookeeper is Debian's package, whose classes are run as they are.
type zookeeper struct{ java string }

const zookeeperJar = "/usr/share/java/zookeeper.jar"

func (d *zookeeper) prepare(context.Context) (err error) {
	if d.java, err = exec.LookPath("java"); err == nil {
		_, err = os.Stat(zookeeperJar)
	}
	if err != nil {
		return fmt.Errorf("ZooKeeper is not installed (apt-get install --no-install-recommends libzookeeper-java default-jre-headless): %w", err)
	}
	return nil
}

func (d *zookeeper) ports() int { return 3 } // clients, quorum, election

// tick is ZooKeeper's unit of time; sessions may be from 2 s on.
const tick = 500 * time.Millisecond

func (d *zookeeper) command(m *Member) (*exec.Cmd, error) {
	host, client, err := split(m.Endpoint)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "tickTime=%d\ninitLimit=20\nsyncLimit=10\nminSessionTimeout=2000\nmaxSessionTimeout=120000\ndataDir=%s\n", tick.Milliseconds(), m.Dir)
	b.WriteString("admin.enableServer=false\n4lw.commands.whitelist=srvr,ruok,mntr\nautopurge.purgeInterval=0\nmaxClientCnxns=0\n")
	if len(m.cluster.Members) > 1 {
		for i, x := range m.cluster.Members {
			_, quorum, err := split(x.ports[1])
			h, election, err2 := split(x.ports[2])
			if err := errors.Join(err, err2); err != nil {
				return nil, err
			}
			fmt.Fprintf(&b, "server.%d=%s:%d:%d\n", i+1, h, quorum, election)
		}
	}
	args := []string{"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j.configuration=file:" + m.Dir + ".log4j"}
	if id := m.cluster.identity(); id != nil {
		fmt.Fprintf(&b, "secureClientPort=%d\nsecureClientPortAddress=%s\nserverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n", client, host)
		more, err := d.secure(m, id)
		if err != nil {
			return nil, err
		}
		args = append(args, more...)
	} else {
		fmt.Fprintf(&b, "clientPort=%d\nclientPortAddress=%s\n", client, host)
	}
	log4j := "log4j.rootLogger=WARN, out\nlog4j.appender.out=org.apache.log4j.ConsoleAppender\nlog4j.appender.out.layout=org.apache.log4j.PatternLayout\nlog4j.appender.out.layout.ConversionPattern=%d %p %c %m%n\n"
	id := 1
	for i, x := range m.cluster.Members {
		if x == m {
			id = i + 1
		}
	}
	err = errors.Join(os.MkdirAll(m.Dir, 0o755), os.WriteFile(m.Dir+".cfg", []byte(b.String()), 0o644), os.WriteFile(m.Dir+".log4j", []byte(log4j), 0o644),
		os.WriteFile(filepath.Join(m.Dir, "myid"), fmt.Appendln(nil, id), 0o644))
	if err != nil {
		return nil, err
	}
	args = append(args, "-cp", zookeeperJar, "org.apache.zookeeper.server.quorum.QuorumPeerMain", m.Dir+".cfg")
	return exec.Command(d.java, args...), nil
}

// secure are the arguments for TLS with client certificates. A superuser by digest is the one user that every ACL lets in.
func (d *zookeeper) secure(m *Member, id *identity) ([]string, error) {
	return nil, errors.New("not there yet")
}

// ZooKeeperClient returns a plain client.
func (c *Cluster) ZooKeeperClient() (*zk.Conn, error) {
	conn, _, err := zk.Connect(c.Endpoints(), 5*time.Second, zk.WithLogInfo(false), zk.WithLogger(silent{}), zk.WithDialer(c.zookeeperDial))
	return conn, err
}

func (c *Cluster) zookeeperDial(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return c.opts.Dial(ctx, network, address)
}

type silent struct{}

func (silent) Printf(string, ...any) {}

func (d *zookeeper) wait(ctx context.Context, c *Cluster) error {
	cli, err := c.ZooKeeperClient()
	if err != nil {
		return err
	}
	defer cli.Close()
	for {
		_, err := cli.Create("/ready", nil, 0, zk.WorldACL(zk.PermAll))
		if err == nil || errors.Is(err, zk.ErrNodeExists) {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("zookeeper is not ready: %w", err)
		}
	}
}

func (d *zookeeper) leader(ctx context.Context, c *Cluster) (int, error) {
	for i, m := range c.Members {
		text, err := c.ask(ctx, m, "srvr")
		if err == nil && (strings.Contains(text, "Mode: leader") || strings.Contains(text, "Mode: standalone")) {
			return i, nil
		}
	}
	return 0, errors.New("no member leads")
}

// ask sends a four-letter word.
func (c *Cluster) ask(ctx context.Context, m *Member, word string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := c.opts.Dial(ctx, "tcp", m.Endpoint)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, word); err != nil {
		return "", err
	}
	text, err := io.ReadAll(bufio.NewReader(conn))
	return string(text), err
}
