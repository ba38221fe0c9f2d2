//! Whom a certificate names.

use std::path::Path;

use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::Error;
use crate::pair::certificates;

/// The common name in the first certificate of a PEM file; `None` where it has none, or an empty one.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub fn common_name(file: &Path) -> Result<Option<String>, Error> {
    let chain = certificates(file)?;
    let Some(certificate) = chain.first() else { return Ok(None) };
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|error| Error::content(file, error.to_string()))?;
    let name = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
    Ok(name.filter(|name| !name.is_empty()).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn the_name_is_read_or_found_missing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cert.pem");
        for (given, expected) in [(Some("root"), Some("root")), (Some(""), None), (None, None)] {
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            if let Some(name) = given {
                params.distinguished_name.push(DnType::CommonName, name);
            }
            let key = KeyPair::generate().unwrap();
            std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
            assert_eq!(common_name(&file).unwrap().as_deref(), expected, "{given:?}");
        }
        std::fs::write(&file, "no certificate").unwrap();
        assert!(common_name(&file).is_err());
    }
}
