//! Certificates for those who want encryption without an authority.
//!
//! They lie where etcd keeps its own, are taken again when they are there, and show nothing but the hosts they were made for: whoever
//! dials cannot check them, and does not.
//!
//! Upstream: `transport.SelfCert` (3.5.30).

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::SystemTime;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P521_SHA512,
};

use crate::{Error, Pair};

/// A pair that was generated, now or before.
#[derive(Debug)]
pub struct Generated {
    /// Its files.
    pub pair: Pair,
    /// Whether they were made now.
    pub is_new: bool,
}

/// Takes the pair in a folder, or makes one for the hosts that is valid so many years from now on.
///
/// # Errors
/// The folder or a file cannot be written.
pub fn generate(folder: &Path, hosts: &[String], years: u32) -> Result<Generated, Error> {
    if years == 0 {
        return Err(Error::Generate(
            "selfSignedCertValidity is invalid,it should be greater than 0".to_owned(),
        ));
    }
    let pair = Pair { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    if pair.certificate.exists() && pair.key.exists() {
        return Ok(Generated { pair, is_new: false });
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| Error::file(folder, source))?;
    let (certificate, key) =
        make(hosts, years).map_err(|error| Error::Generate(error.to_string()))?;
    // The key first: a certificate without it would not be taken for a pair.
    write(&pair.key, &key, 0o600)?;
    write(&pair.certificate, &certificate, 0o644)?;
    Ok(Generated { pair, is_new: true })
}

fn make(hosts: &[String], years: u32) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(hosts.to_vec())?;
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::OrganizationName, "etcd");
    params.distinguished_name = name;
    let now = SystemTime::now();
    params.not_before = now.into();
    let validity = std::time::Duration::from_secs(u64::from(years) * 365 * 24 * 3600);
    let end = validity.try_into().ok().and_then(|validity| params.not_before.checked_add(validity));
    // A certificate cannot say more than that.
    params.not_after = end.unwrap_or_else(|| rcgen::date_time_ymd(9999, 12, 31));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512)?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path).and_then(
            |mut file| {
                // One that was there keeps its mode otherwise.
                file.set_permissions(Permissions::from_mode(mode))?;
                file.write_all(text.as_bytes())?;
                file.sync_all()
            },
        );
    written.map_err(|source| Error::file(path, source))
}
