//! The commands and flags that exist: one table, from which parsing and help are made.
//!
//! The order of commands is etcd's order of registration: suggestions for a mistyped command follow it. Help sorts by name.

/// What a flag's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--x` or `--x=false`.
    Bool,
    /// A 64-bit integer.
    Int,
    /// Any text.
    Text,
    /// A Go duration: `5s`.
    Duration,
    /// Comma-separated, repeatable.
    List,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Name after `--`.
    pub name: &'static str,
    /// Letter after `-`.
    pub short: Option<char>,
    /// Type of the value.
    pub kind: Kind,
    /// Value when the flag is absent, as help shows it.
    pub default: &'static str,
    /// One line for help.
    pub help: &'static str,
}

/// What running a command means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A group: shows its help.
    Group,
    /// `get`
    Get,
    /// `put`
    Put,
    /// `del`
    Del,
    /// `txn`
    Txn,
    /// `watch`
    Watch,
    /// `compaction`
    Compaction,
    /// `lease grant`
    LeaseGrant,
    /// `lease revoke`
    LeaseRevoke,
    /// `lease timetolive`
    LeaseTimeToLive,
    /// `lease list`
    LeaseList,
    /// `lease keep-alive`
    LeaseKeepAlive,
    /// `member add`
    MemberAdd,
    /// `member remove`
    MemberRemove,
    /// `member update`
    MemberUpdate,
    /// `member list`
    MemberList,
    /// `member promote`
    MemberPromote,
    /// `endpoint health`
    EndpointHealth,
    /// `endpoint status`
    EndpointStatus,
    /// `endpoint hashkv`
    EndpointHashKv,
    /// `alarm list`
    AlarmList,
    /// `alarm disarm`
    AlarmDisarm,
    /// `defrag`
    Defrag,
    /// `snapshot save`
    SnapshotSave,
    /// `lock`
    Lock,
    /// `elect`
    Elect,
    /// `move-leader`
    MoveLeader,
    /// `auth enable`
    AuthEnable,
    /// `auth disable`
    AuthDisable,
    /// `auth status`
    AuthStatus,
    /// `user add`
    UserAdd,
    /// `user delete`
    UserDelete,
    /// `user get`
    UserGet,
    /// `user list`
    UserList,
    /// `user passwd`
    UserPasswd,
    /// `user grant-role`
    UserGrantRole,
    /// `user revoke-role`
    UserRevokeRole,
    /// `role add`
    RoleAdd,
    /// `role delete`
    RoleDelete,
    /// `role get`
    RoleGet,
    /// `role list`
    RoleList,
    /// `role grant-permission`
    RoleGrantPermission,
    /// `role revoke-permission`
    RoleRevokePermission,
    /// `version`
    Version,
    /// `help`
    Help,
    /// A command of etcdctl that this program does not have yet.
    Missing,
}

/// One command.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its word on the command line.
    pub name: &'static str,
    /// What follows the word in the usage line.
    pub arguments: &'static str,
    /// One line for lists of commands.
    pub short: &'static str,
    /// A paragraph for its own help.
    pub long: &'static str,
    /// Its own flags.
    pub flags: &'static [Flag],
    /// Commands of a group.
    pub commands: Vec<Command>,
    /// What it does.
    pub action: Action,
}

impl Command {
    /// A flag of the command or a global one.
    pub fn flag(&self, name: &str) -> Option<&'static Flag> {
        self.flags.iter().chain(GLOBAL).find(|flag| flag.name == name)
    }
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, kind, default, help }
}

const fn switch(name: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Bool, "false", help)
}

/// `-h` of every command.
pub const HELP: Flag = Flag {
    name: "help",
    short: Some('h'),
    kind: Kind::Bool,
    default: "false",
    help: "help for this command",
};

/// Flags of every command, in the order of their names.
pub const GLOBAL: &[Flag] = &[
    flag("cacert", Kind::Text, "", "CA bundle that servers' certificates are checked with"),
    flag("cert", Kind::Text, "", "certificate file to present to servers; needs --key"),
    flag(
        "command-timeout",
        Kind::Duration,
        "5s",
        "time limit of short commands, without connecting",
    ),
    switch("debug", "show the client's settings on standard error"),
    flag("dial-timeout", Kind::Duration, "2s", "time limit of connecting"),
    Flag {
        name: "discovery-srv",
        short: Some('d'),
        kind: Kind::Text,
        default: "",
        help: "domain whose SRV records name the endpoints (not implemented yet)",
    },
    flag(
        "discovery-srv-name",
        Kind::Text,
        "",
        "service name for the SRV records (not implemented yet)",
    ),
    flag("endpoints", Kind::List, "[127.0.0.1:2379]", "gRPC endpoints"),
    switch("hex", "show bytes as hex"),
    flag("insecure-discovery", Kind::Bool, "true", "accept SRV records of endpoints without TLS"),
    switch("insecure-skip-tls-verify", "do not check servers' certificates (only for tests)"),
    flag("insecure-transport", Kind::Bool, "true", "connect without TLS"),
    flag("keepalive-time", Kind::Duration, "2s", "silence after which a connection is probed"),
    flag("keepalive-timeout", Kind::Duration, "6s", "time a probe may go unanswered"),
    flag("key", Kind::Text, "", "key file of the certificate in --cert"),
    flag("password", Kind::Text, "", "password of the user; then --user must be the name alone"),
    flag(
        "user",
        Kind::Text,
        "",
        "name[:password] to authenticate with; asks for a missing password",
    ),
    Flag {
        name: "write-out",
        short: Some('w'),
        kind: Kind::Text,
        default: "simple",
        help: "output format: fields, json, protobuf, simple or table",
    },
];

/// Flags of `user add`.
pub const USER_ADD: &[Flag] = &[
    INTERACTIVE,
    flag("new-user-password", Kind::Text, "", "password of the new user"),
    switch("no-password", "a user who can only be named by a certificate"),
];

/// Flags of `user passwd`.
pub const USER_PASSWD: &[Flag] = &[INTERACTIVE];

/// Flags of `user get`.
pub const USER_GET: &[Flag] = &[switch("detail", "show what the user's roles may do")];

/// Flags of `role grant-permission` and `role revoke-permission`.
pub const PERMISSION: &[Flag] = &[
    switch("from-key", "all keys from the given one on, in byte order"),
    switch("prefix", "all keys with the given prefix"),
];

const INTERACTIVE: Flag =
    flag("interactive", Kind::Bool, "true", "ask for the password instead of reading it");

/// Flags of `get`, also in transactions.
pub const GET: &[Flag] = &[
    flag("consistency", Kind::Text, "l", "linearizable (l) or serializable (s)"),
    switch("count-only", "only count the keys"),
    switch("from-key", "all keys from the given one on, in byte order"),
    switch("keys-only", "only the keys, no values"),
    flag("limit", Kind::Int, "0", "number of results at most"),
    flag("order", Kind::Text, "", "order of the results: ASCEND (default) or DESCEND"),
    switch("prefix", "all keys with the given prefix"),
    switch("print-value-only", "only values, in the simple output format"),
    flag("rev", Kind::Int, "0", "read at this revision"),
    flag("sort-by", Kind::Text, "", "sort by CREATE, KEY, MODIFY, VALUE or VERSION"),
];

/// Flags of `put`, also in transactions.
pub const PUT: &[Flag] = &[
    switch("ignore-lease", "keep the key's lease"),
    switch("ignore-value", "keep the key's value"),
    flag("lease", Kind::Text, "0", "lease to attach to the key, in hex"),
    switch("prev-kv", "show the key as it was before"),
];

/// Flags of `del`, also in transactions.
pub const DEL: &[Flag] = &[
    switch("from-key", "all keys from the given one on, in byte order"),
    switch("prefix", "all keys with the given prefix"),
    switch("prev-kv", "show the deleted keys"),
    switch("range", "delete the range of keys without a notice"),
];

/// Flags of `watch`, also in interactive lines.
pub const WATCH: &[Flag] = &[
    Flag {
        name: "interactive",
        short: Some('i'),
        kind: Kind::Bool,
        default: "false",
        help: "read watch requests from standard input",
    },
    switch("prefix", "all keys with the given prefix"),
    switch("prev-kv", "show keys as they were before"),
    switch("progress-notify", "show the server's reports of progress"),
    flag("rev", Kind::Int, "0", "revision to start from"),
];

const LOCK: &[Flag] =
    &[flag("ttl", Kind::Int, "10", "time to live of the lock's lease, in seconds")];

const ELECT: &[Flag] = &[Flag {
    name: "listen",
    short: Some('l'),
    kind: Kind::Bool,
    default: "false",
    help: "follow the election without taking part",
}];

const CLUSTER: &[Flag] = &[switch("cluster", "use every endpoint of the cluster's member list")];

const HASHKV: &[Flag] = &[
    switch("cluster", "use every endpoint of the cluster's member list"),
    flag("rev", Kind::Int, "0", "highest revision to hash (0: the current one)"),
];

const DEFRAG: &[Flag] = &[
    switch("cluster", "use every endpoint of the cluster's member list"),
    flag("data-dir", Kind::Text, "", "directory of a stopped member (not implemented yet)"),
];

const PEER_URLS: Flag =
    flag("peer-urls", Kind::Text, "", "the member's peer URLs, separated by commas");

const COMPACTION: &[Flag] = &[switch("physical", "wait until the history is gone from disk")];

const TIME_TO_LIVE: &[Flag] = &[switch("keys", "show the lease's keys")];

const KEEP_ALIVE: &[Flag] = &[switch("once", "renew once and exit")];

const MEMBER_ADD: &[Flag] = &[switch("learner", "the member does not vote yet"), PEER_URLS];

const MEMBER_UPDATE: &[Flag] = &[PEER_URLS];

fn leaf(
    name: &'static str,
    arguments: &'static str,
    short: &'static str,
    flags: &'static [Flag],
    action: Action,
) -> Command {
    Command { name, arguments, short, long: "", flags, commands: Vec::new(), action }
}

fn group(name: &'static str, short: &'static str, commands: Vec<Command>) -> Command {
    Command {
        name,
        arguments: " <subcommand>",
        short,
        long: "",
        flags: &[],
        commands,
        action: Action::Group,
    }
}

fn missing(name: &'static str, short: &'static str) -> Command {
    leaf(name, "", short, &[], Action::Missing)
}

/// The whole program.
pub fn root() -> Command {
    Command {
        name: "etcdctl",
        arguments: "",
        short: "A command line client for etcd's v3 API.",
        long: "",
        flags: &[],
        commands: commands(),
        action: Action::Group,
    }
}

fn commands() -> Vec<Command> {
    vec![
        leaf(
            "get",
            " [options] <key> [range_end]",
            "Reads a key or a range of keys",
            GET,
            Action::Get,
        ),
        put(),
        leaf(
            "del",
            " [options] <key> [range_end]",
            "Deletes a key or a range of keys",
            DEL,
            Action::Del,
        ),
        txn(),
        leaf(
            "compaction",
            " [options] <revision>",
            "Drops the history of keys before a revision",
            COMPACTION,
            Action::Compaction,
        ),
        alarm(),
        leaf("defrag", "", "Gives the free space of members' storage back", DEFRAG, Action::Defrag),
        endpoint(),
        leaf(
            "move-leader",
            " <transferee-member-id>",
            "Hands leadership to another member",
            &[],
            Action::MoveLeader,
        ),
        watch(),
        leaf("version", "", "Shows the version of etcdctl", &[], Action::Version),
        lease(),
        member(),
        snapshot(),
        missing("make-mirror", "Mirrors keys to another cluster"),
        leaf(
            "lock",
            " <lockname> [exec-command arg1 arg2 ...]",
            "Holds a named lock",
            LOCK,
            Action::Lock,
        ),
        leaf(
            "elect",
            " <election-name> [proposal]",
            "Takes part in an election or follows it",
            ELECT,
            Action::Elect,
        ),
        group(
            "auth",
            "Turns authentication on and off",
            vec![
                leaf("enable", "", "Turns authentication on", &[], Action::AuthEnable),
                leaf("disable", "", "Turns authentication off", &[], Action::AuthDisable),
                leaf("status", "", "Shows whether authentication is on", &[], Action::AuthStatus),
            ],
        ),
        user(),
        role(),
        group(
            "check",
            "Checks properties of the cluster",
            vec![
                missing("perf", "Checks the cluster's speed"),
                missing("datascale", "Checks the memory that keys take on a server"),
            ],
        ),
        leaf("help", " [command]", "Shows help for a command", &[], Action::Help),
        group(
            "completion",
            "Generates completion scripts for shells",
            vec![
                missing("bash", "Generates a script for bash"),
                missing("fish", "Generates a script for fish"),
                missing("powershell", "Generates a script for powershell"),
                missing("zsh", "Generates a script for zsh"),
            ],
        ),
    ]
}

fn put() -> Command {
    Command {
        long: "Writes a key.\n\nA value that begins with '-' looks like a flag; put '--' before it:\n\n\
               $ put <key> -- <value>\n$ put -- <key> <value>\n\n\
               Without a value, and without --ignore-value, the value is all of standard input, as it is:\n\n\
               $ cat file | put <key>",
        ..leaf(
            "put",
            " [options] <key> <value> (<value> can also be given from stdin)",
            "Writes a key",
            PUT,
            Action::Put,
        )
    }
}

fn txn() -> Command {
    Command {
        long: "Reads a transaction from standard input: comparisons, an empty line, requests for the case that all \
               hold, an empty line,\nrequests for the case that one does not, an empty line.\n\n\
               mod(\"key\") > \"0\"\n\nput key \"new value\"\n\nget key\n",
        ..leaf(
            "txn",
            " [options]",
            "Runs comparisons and requests in one transaction",
            &[Flag {
                name: "interactive",
                short: Some('i'),
                kind: Kind::Bool,
                default: "false",
                help: "say which part is read next",
            }],
            Action::Txn,
        )
    }
}

fn watch() -> Command {
    leaf(
        "watch",
        " [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
        "Follows changes of keys",
        WATCH,
        Action::Watch,
    )
}

fn alarm() -> Command {
    group(
        "alarm",
        "Shows and clears alarms",
        vec![
            leaf("disarm", "", "Clears all alarms", &[], Action::AlarmDisarm),
            leaf("list", "", "Lists the alarms", &[], Action::AlarmList),
        ],
    )
}

fn endpoint() -> Command {
    group(
        "endpoint",
        "Shows the state of endpoints",
        vec![
            leaf(
                "health",
                "",
                "Checks that the endpoints can write",
                CLUSTER,
                Action::EndpointHealth,
            ),
            leaf(
                "status",
                "",
                "Shows the state of the endpoints' members",
                CLUSTER,
                Action::EndpointStatus,
            ),
            leaf(
                "hashkv",
                "",
                "Hashes the key history of each endpoint",
                HASHKV,
                Action::EndpointHashKv,
            ),
        ],
    )
}

fn lease() -> Command {
    group(
        "lease",
        "Handles leases",
        vec![
            leaf("grant", " <ttl>", "Creates a lease", &[], Action::LeaseGrant),
            leaf(
                "revoke",
                " <leaseID>",
                "Ends a lease and deletes its keys",
                &[],
                Action::LeaseRevoke,
            ),
            leaf(
                "timetolive",
                " <leaseID> [options]",
                "Shows the remaining time of a lease",
                TIME_TO_LIVE,
                Action::LeaseTimeToLive,
            ),
            leaf("list", "", "Lists the leases", &[], Action::LeaseList),
            leaf(
                "keep-alive",
                " [options] <leaseID>",
                "Keeps a lease alive",
                KEEP_ALIVE,
                Action::LeaseKeepAlive,
            ),
        ],
    )
}

fn member() -> Command {
    group(
        "member",
        "Changes and shows the membership",
        vec![
            leaf("add", " <memberName> [options]", "Adds a member", MEMBER_ADD, Action::MemberAdd),
            leaf("remove", " <memberID>", "Removes a member", &[], Action::MemberRemove),
            leaf(
                "update",
                " <memberID> [options]",
                "Changes a member's peer URLs",
                MEMBER_UPDATE,
                Action::MemberUpdate,
            ),
            Command {
                long: "The simple output has one line a member: ID, status, name, peer URLs, client URLs, is a learner.",
                ..leaf("list", "", "Lists the members", &[], Action::MemberList)
            },
            leaf("promote", " <memberID>", "Makes a learner a voter", &[], Action::MemberPromote),
        ],
    )
}

fn snapshot() -> Command {
    group(
        "snapshot",
        "Saves snapshots of a member's storage",
        vec![
            leaf("save", " <filename>", "Saves a snapshot to a file", &[], Action::SnapshotSave),
            missing("restore", "Makes a data directory from a snapshot"),
            missing("status", "Shows what a snapshot holds"),
        ],
    )
}

fn user() -> Command {
    group(
        "user",
        "Handles users",
        vec![
            leaf(
                "add",
                " <user name or user:password> [options]",
                "Adds a user",
                USER_ADD,
                Action::UserAdd,
            ),
            leaf("delete", " <user name>", "Deletes a user", &[], Action::UserDelete),
            leaf(
                "get",
                " <user name> [options]",
                "Shows a user's roles",
                USER_GET,
                Action::UserGet,
            ),
            leaf("list", "", "Lists the users", &[], Action::UserList),
            leaf(
                "passwd",
                " <user name> [options]",
                "Changes a user's password",
                USER_PASSWD,
                Action::UserPasswd,
            ),
            leaf(
                "grant-role",
                " <user name> <role name>",
                "Grants a role to a user",
                &[],
                Action::UserGrantRole,
            ),
            leaf(
                "revoke-role",
                " <user name> <role name>",
                "Takes a role from a user",
                &[],
                Action::UserRevokeRole,
            ),
        ],
    )
}

fn role() -> Command {
    group(
        "role",
        "Handles roles",
        vec![
            leaf("add", " <role name>", "Adds a role", &[], Action::RoleAdd),
            leaf("delete", " <role name>", "Deletes a role", &[], Action::RoleDelete),
            leaf("get", " <role name>", "Shows a role's permissions", &[], Action::RoleGet),
            leaf("list", "", "Lists the roles", &[], Action::RoleList),
            leaf(
                "grant-permission",
                " [options] <role name> <permission type> <key> [endkey]",
                "Grants a key range to a role",
                PERMISSION,
                Action::RoleGrantPermission,
            ),
            leaf(
                "revoke-permission",
                " [options] <role name> <key> [endkey]",
                "Takes a key range from a role",
                PERMISSION,
                Action::RoleRevokePermission,
            ),
        ],
    )
}
