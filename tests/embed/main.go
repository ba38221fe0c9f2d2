// Command etcd is one member of an etcd cluster, on etcd's embed package.
//
// It takes the flags that embed.Config declares and the URLs, runs until SIGTERM or SIGINT, and then ends in order. Two module
// files pin etcd 3.6 and 3.7: `go build -modfile=v3.6.mod`, `go build -modfile=v3.7.mod`.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/pkg/v3/flags"
	"go.etcd.io/etcd/server/v3/embed"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	config, err := configure(arguments)
	if err != nil || config == nil {
		return err
	}
	// Before the member starts: a signal that arrives meanwhile is acted on as soon as it runs.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	member, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer member.Close()
	select {
	case <-signals:
		return nil
	case err := <-member.Err():
		return fmt.Errorf("a listener failed: %w", err)
	case <-member.Server.StopNotify():
		// The member was removed from its cluster, which is a clean end, as for etcd's own program.
		return nil
	}
}

// configure turns flags into a configuration; nil without an error when only the version was asked for.
func configure(arguments []string) (*embed.Config, error) {
	config := embed.NewConfig()
	set := flag.NewFlagSet("etcd", flag.ContinueOnError)
	config.AddFlags(set)
	// What embed leaves to the program.
	set.StringVar(&config.ClusterState, "initial-cluster-state", config.ClusterState, "new or existing")
	isVersion := set.Bool("version", false, "print the version")
	if err := set.Parse(arguments); err != nil {
		return nil, err
	}
	if *isVersion {
		fmt.Println("etcd Version:", version.Version)
		return nil, nil
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("not a flag: %q", set.Arg(0))
	}
	set.Visit(func(given *flag.Flag) { config.FlagsExplicitlySet[given.Name] = true })
	// embed declares these flags, but keeps their values in the flag set.
	config.ListenPeerUrls = flags.UniqueURLsFromFlag(set, "listen-peer-urls")
	config.ListenClientUrls = flags.UniqueURLsFromFlag(set, "listen-client-urls")
	config.AdvertisePeerUrls = flags.UniqueURLsFromFlag(set, "initial-advertise-peer-urls")
	config.AdvertiseClientUrls = flags.UniqueURLsFromFlag(set, "advertise-client-urls")
	if config.Dir == "" {
		return nil, errors.New("--data-dir is required")
	}
	return config, config.Validate()
}
