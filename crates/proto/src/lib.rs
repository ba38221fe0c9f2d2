//! The messages of etcd 3.7: what clients send, what members send each other, and what stands on disk.
//!
//! One module for each protobuf package, generated from the files in `crates/proto/proto` by `cargo xtask codegen` and
//! checked in. No service stubs here (those are in `rpc`), and nothing of what a message means. Written by hand are [`nested`]
//! (transactions deeper than the library decodes), [`text`] (names that are not UTF-8), and what keeps secrets out of `Debug`.
//!
//! - Every `bytes` field is [`bytes::Bytes`]: decoding from a `Bytes` buffer shares it instead of copying.
//! - Messages that etcd encodes in the proto2 dialect ([`raftpb`], [`walpb`], [`snappb`], [`etcdserverpb::Metadata`],
//!   [`etcdserverpb::Request`]) have `required` scalars: zeros are written too, as etcd 3.5 and 3.6 do. Absent fields
//!   decode as zero, because newer raft libraries leave them out.
//! - [`etcdserverpb::InternalRaftRequest`] holds its request as a `oneof`. etcd has plain fields of which exactly one
//!   is set; both are the same bytes.
//! - Field names are lower snake case throughout; `json_name` in the `.proto` files keeps etcd's spelling.

mod fields;
pub mod nested;
mod secrets;
pub mod text;

/// Generates a module around one file of generated code.
macro_rules! package {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unreachable_pub,
            unused_qualifications,
            clippy::all,
            clippy::allow_attributes_without_reason,
            reason = "generated code; the .proto files carry the documentation"
        )]
        #[rustfmt::skip]
        pub mod $name {
            include!(concat!("gen/", $file));
        }
    };
}

package!(
    /// Users, roles and permissions.
    authpb, "authpb.rs"
);
package!(
    /// The public API, and the requests that stand in the log.
    etcdserverpb, "etcdserverpb.rs"
);
package!(
    /// Lease rows, and questions about leases between members.
    leasepb, "leasepb.rs"
);
package!(
    /// Membership changes that go through the log as normal entries.
    membershippb, "membershippb.rs"
);
package!(
    /// Key-value pairs and events.
    mvccpb, "mvccpb.rs"
);
package!(
    /// Consensus messages, entries and states.
    raftpb, "raftpb.rs"
);
package!(
    /// Envelope of `.snap` files.
    snappb, "snappb.rs"
);
package!(
    /// Messages of the election service.
    v3electionpb, "v3electionpb.rs"
);
package!(
    /// Messages of the lock service.
    v3lockpb, "v3lockpb.rs"
);
package!(
    /// Records of the write-ahead log.
    walpb, "walpb.rs"
);

#[cfg(test)]
mod tests;
