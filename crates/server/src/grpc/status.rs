//! From refusals to what a client is told: the one place where our errors become etcd's codes and texts.

use machine::RequestError;
use mvcc::check::CheckError;
use rpc::errors::Error;
use tonic::{Code, Status};

use crate::reads::ReadError;
use crate::request::Refusal;

/// The status for a refusal.
pub(crate) fn of(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Request(error) => of_request(error),
        Refusal::Auth(error) => of_auth(*error),
        Refusal::Malformed(error) => of_check(error).into(),
        Refusal::TooManyRequests => Error::RequestTooManyRequests.into(),
        Refusal::TooLarge => Error::RequestTooLarge.into(),
        // etcd's proposal runs into its own deadline here, and says so in Go's words.
        Refusal::NoLeaderInTime => Status::new(Code::DeadlineExceeded, "context deadline exceeded"),
        Refusal::Dropped => Status::new(Code::Unknown, "raft proposal dropped"),
        Refusal::Timeout | Refusal::Read(ReadError::Timeout) => Error::Timeout.into(),
        Refusal::Read(ReadError::LeaderChanged) => Error::LeaderChanged.into(),
        Refusal::TransferTimeout => Error::TimeoutLeaderTransfer.into(),
        Refusal::Stopped | Refusal::Read(ReadError::Stopped) => Error::Stopped.into(),
    }
}

fn of_request(error: &RequestError) -> Status {
    match error {
        RequestError::Store(error) => of_store(error).into(),
        RequestError::NoSpace | RequestError::OverQuota => Error::NoSpace.into(),
        RequestError::Corrupt => Error::Corrupt.into(),
        RequestError::LeaseNotFound => Error::LeaseNotFound.into(),
        RequestError::LeaseExists => Error::LeaseExist.into(),
        RequestError::LeaseTtlTooLarge => Error::LeaseTTLTooLarge.into(),
        RequestError::MemberExists => Error::MemberExist.into(),
        RequestError::PeerUrlExists => Error::PeerURLExist.into(),
        RequestError::MemberNotFound | RequestError::MemberRemoved => Error::MemberNotFound.into(),
        RequestError::MemberNotLearner => Error::MemberNotLearner.into(),
        RequestError::TooManyLearners => Error::TooManyLearners.into(),
        RequestError::Auth(error) => of_auth(*error),
        RequestError::UnknownPublisher | RequestError::Unsupported => {
            Status::new(Code::Unknown, error.to_string())
        }
    }
}

/// The status for who may not, or for what cannot be made of users and roles.
pub(crate) fn of_auth(error: auth::Error) -> Status {
    match error {
        auth::Error::RootUserNotExist => Error::RootUserNotExist,
        auth::Error::RootRoleNotExist => Error::RootRoleNotExist,
        auth::Error::UserAlreadyExist => Error::UserAlreadyExist,
        auth::Error::UserEmpty => Error::UserEmpty,
        auth::Error::UserNotFound => Error::UserNotFound,
        auth::Error::RoleAlreadyExist => Error::RoleAlreadyExist,
        auth::Error::RoleNotFound => Error::RoleNotFound,
        auth::Error::RoleEmpty => Error::RoleEmpty,
        auth::Error::AuthFailed => Error::AuthFailed,
        auth::Error::PasswordGivenForNoPasswordUser => Error::PasswordGivenForNoPasswordUser,
        auth::Error::PermissionNotGiven => Error::PermissionNotGiven,
        auth::Error::PermissionDenied => Error::PermissionDenied,
        auth::Error::RoleNotGranted => Error::RoleNotGranted,
        auth::Error::PermissionNotGranted => Error::PermissionNotGranted,
        auth::Error::AuthNotEnabled => Error::AuthNotEnabled,
        auth::Error::InvalidAuthToken => Error::InvalidAuthToken,
        auth::Error::InvalidAuthMgmt => Error::InvalidAuthMgmt,
        auth::Error::AuthOldRevision => Error::AuthOldRevision,
    }
    .into()
}

/// The same from the maintenance calls in which 3.5 forgets to translate.
pub(crate) fn of_maintenance_auth(error: auth::Error, minor: u32) -> Status {
    const UNTRANSLATED: [(auth::Error, Error); 3] = [
        (auth::Error::UserEmpty, Error::MaintenanceUserEmpty),
        (auth::Error::InvalidAuthToken, Error::MaintenanceInvalidAuthToken),
        (auth::Error::PermissionDenied, Error::MaintenancePermissionDenied),
    ];
    if minor >= 6 {
        return of_auth(error);
    }
    match UNTRANSLATED.into_iter().find(|(known, _)| *known == error) {
        Some((_, told)) => told.into(),
        None => Status::new(Code::Unknown, format!("auth: {error}")),
    }
}

/// The status for what the store refuses.
pub(crate) fn of_store(error: &mvcc::RequestError) -> Error {
    match error {
        mvcc::RequestError::Compacted { .. } => Error::Compacted,
        mvcc::RequestError::FutureRevision { .. } => Error::FutureRev,
        mvcc::RequestError::KeyNotFound => Error::KeyNotFound,
        mvcc::RequestError::LeaseNotFound { .. } => Error::LeaseNotFound,
        mvcc::RequestError::Malformed(error) => of_check(error),
    }
}

/// The status for a malformed request.
pub(crate) fn of_check(error: &CheckError) -> Error {
    match error {
        CheckError::EmptyKey => Error::EmptyKey,
        CheckError::ValueProvided => Error::ValueProvided,
        CheckError::LeaseProvided => Error::LeaseProvided,
        CheckError::TooManyOps => Error::TooManyOps,
        CheckError::DuplicateKey => Error::DuplicateKey,
        CheckError::NoOperation => Error::KeyNotFound,
        CheckError::InvalidSortOption => Error::InvalidSortOption,
    }
}

/// The status for a read that failed: refused, or this member's data cannot be read.
pub(crate) fn of_read(error: &mvcc::Error) -> Status {
    match error {
        mvcc::Error::Request(error) => of_store(error).into(),
        mvcc::Error::Storage(error) => {
            tracing::error!(error = %error, "cannot read the store");
            Status::new(Code::Internal, error.to_string())
        }
    }
}
