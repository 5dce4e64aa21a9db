package server

import (
	"bufio"
	"context"
	"crypto/tls"
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

// zookeeperJar names what it needs from other packages, but for two of netty's parts, which TLS needs.
const (
	zookeeperJar = "/usr/share/java/zookeeper.jar"
	classPath    = zookeeperJar + ":/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar"
)

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
	// Java asks for the names of its own addresses, and where no name server answers it waits for half a minute.
	hosts := m.Dir + ".hosts"
	args := []string{"-Djdk.net.hosts.file=" + hosts, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j.configuration=file:" + m.Dir + ".log4j"}
	if id := m.cluster.identity(); id != nil {
		fmt.Fprintf(&b, "secureClientPort=%d\nsecureClientPortAddress=%s\nserverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n", client, host)
		more, err := d.secure(m, id, &b)
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
	name, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	err = errors.Join(os.MkdirAll(m.Dir, 0o755), os.WriteFile(hosts, fmt.Appendf(nil, "127.0.0.1 localhost %s\n%s %s\n", name, host, m.Name), 0o644), os.WriteFile(m.Dir+".cfg", []byte(b.String()), 0o644), os.WriteFile(m.Dir+".log4j", []byte(log4j), 0o644),
		os.WriteFile(filepath.Join(m.Dir, "myid"), fmt.Appendln(nil, id), 0o644))
	if err != nil {
		return nil, err
	}
	args = append(args, "-cp", classPath, "org.apache.zookeeper.server.quorum.QuorumPeerMain", m.Dir+".cfg")
	return exec.Command(d.java, args...), nil
}

// secure configures TLS with client certificates. A superuser by digest is the one user whom every ACL lets in.
func (d *zookeeper) secure(m *Member, id *identity, b *strings.Builder) (args []string, err error) {
	key, err := os.ReadFile(id.serverKey)
	cert, err2 := os.ReadFile(id.serverCert)
	password, err3 := os.ReadFile(id.password)
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, err
	}
	pair := m.Dir + ".pem" // ZooKeeper wants both in one file
	if err := os.WriteFile(pair, append(key, cert...), 0o600); err != nil {
		return nil, err
	}
	fmt.Fprintf(b, "ssl.keyStore.location=%s\nssl.keyStore.type=PEM\nssl.trustStore.location=%s\nssl.trustStore.type=PEM\nssl.clientAuth=need\n", pair, id.ca)
	b.WriteString("authProvider.x509=org.apache.zookeeper.server.auth.X509AuthenticationProvider\n")
	super := zk.DigestACL(zk.PermAll, User, strings.TrimSpace(string(password)))[0].ID
	return []string{"-Dzookeeper.DigestAuthenticationProvider.superDigest=" + super}, nil
}

// ZooKeeperClient returns a plain client, of a secure cluster as its user.
func (c *Cluster) ZooKeeperClient() (*zk.Conn, error) { return c.zookeeperClient(5 * time.Second) }

func (c *Cluster) zookeeperClient(timeout time.Duration) (*zk.Conn, error) {
	conn, _, err := zk.Connect(c.Endpoints(), timeout, zk.WithLogInfo(false), zk.WithLogger(silent{}), zk.WithDialer(c.zookeeperDial))
	if err != nil || !c.opts.Secure {
		return conn, err
	}
	password, err := os.ReadFile(c.identity().password)
	if err == nil {
		err = conn.AddAuth("digest", []byte(User+":"+strings.TrimSpace(string(password))))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (c *Cluster) zookeeperDial(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return c.zookeeperConn(ctx, network, address)
}

// zookeeperConn is a connection to a member, encrypted where the cluster is secure.
func (c *Cluster) zookeeperConn(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.opts.Dial(ctx, network, address)
	if err != nil || !c.opts.Secure {
		return conn, err
	}
	conf, err := c.identity().clientTLS()
	if err == nil {
		conf.ServerName = ServerName
		t := tls.Client(conn, conf)
		if err = t.HandshakeContext(ctx); err == nil {
			return t, nil
		}
	}
	return nil, errors.Join(err, conn.Close())
}

type silent struct{}

func (silent) Printf(string, ...any) {}

func (d *zookeeper) wait(ctx context.Context, c *Cluster) error {
	for timeout := readyTimeout; ; {
		slow, err := c.zookeeperReady(timeout)
		if err == nil {
			return nil
		}
		if slow {
			timeout = min(2*timeout, slowTimeout)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("zookeeper is not ready: %w", err)
		}
	}
}

// A client waits almost seven times as long for the answer to its request for a session. A server that is just starting may take a connection
// and never answer; one on a busy machine takes its time.
const (
	readyTimeout = 300 * time.Millisecond
	slowTimeout  = 5 * time.Second
)

// zookeeperReady tries a write, and tells whether a failure took its time. What a client cannot do at once it would not do later either: its
// login waits for no server.
func (c *Cluster) zookeeperReady(timeout time.Duration) (slow bool, err error) {
	cli, err := c.zookeeperClient(timeout)
	if err != nil {
		return false, err
	}
	defer cli.Close()
	began := time.Now()
	_, err = cli.Create("/ready", nil, 0, zk.WorldACL(zk.PermAll))
	if err == nil || errors.Is(err, zk.ErrNodeExists) {
		err = c.zookeeperOwn(cli)
	}
	return time.Since(began) > timeout, err
}

// zookeeperOwn lets nobody but the user make nodes in a secure cluster.
func (c *Cluster) zookeeperOwn(cli *zk.Conn) error {
	if !c.opts.Secure {
		return nil
	}
	password, err := os.ReadFile(c.identity().password)
	if err == nil {
		_, err = cli.SetACL("/", zk.DigestACL(zk.PermAll, User, strings.TrimSpace(string(password))), -1)
	}
	return err
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
	conn, err := c.zookeeperConn(ctx, "tcp", m.Endpoint)
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
