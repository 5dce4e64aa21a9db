package main

// storeHelp explains --cluster-store-opt.
const storeHelp = `Options of the cluster store (--cluster-store-opt KEY=VALUE):
  kv.cacertfile        PEM file of the CAs that may have signed the certificates of the store's servers; turns TLS on
  kv.certfile          PEM file of this host's certificate for the store; with kv.keyfile. Without kv.cacertfile, the
  kv.keyfile           servers' certificates must be from a CA that this machine trusts
  kv.certificate       host: for an etcd that another host embeds, with the certificate that --join has given to this one
  kv.servername        the name that the servers' certificates must have, where it is not the one in the URL
  kv.user              etcd and ZooKeeper: the user
  kv.passwordfile      etcd and ZooKeeper: file with the password
  kv.tokenfile         Consul: file with the ACL token
  kv.path              prefix of the keys, where the URL has none (weft)
  discovery.ttl        seconds after which a silent host is taken for dead (15); Consul grants no less than 10
  discovery.heartbeat  seconds between signs of life (a third of what the store grants)
Files are read again when they change. A secret is never an option itself, nor in the URL.`
