//! Tokens by ES512 (RFC 7518, section 3.4: ECDSA on P-521 with SHA-512), the one method of etcd's that the library for the others does
//! not have. What they say and how long they hold is as in [`super::jwt`].

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P521_SHA512_FIXED, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::json;

use super::Identity;
use super::jwt::{Given, PRIVATE_KEY, PUBLIC_KEY, pem_block, whole_revision};
use super::tokens::{TokenError, TokenOptionsError};

/// Name of the method.
pub(super) const METHOD: &str = "ES512";

/// What stands before the point in a public key on P-521 (RFC 5480).
const PUBLIC_PREFIX: [u8; 25] = [
    0x30, 0x81, 0x9b, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05,
    0x2b, 0x81, 0x04, 0x00, 0x23, 0x03, 0x81, 0x86, 0x00,
];

/// Makes tokens, checks them, or checks them only.
pub(crate) struct Es512 {
    /// Absent where only the public key is known.
    signing: Option<EcdsaKeyPair>,
    /// A point of the curve, uncompressed.
    verifying: UnparsedPublicKey<Vec<u8>>,
    ttl: Duration,
}

impl fmt::Debug for Es512 {
    /// Leaves the keys out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Es512").field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
}

/// What a token says. Numbers may have a fraction, as JSON's do.
#[derive(Debug, Deserialize)]
struct Claimed {
    revision: f64,
    username: String,
    exp: Option<f64>,
    nbf: Option<f64>,
}

impl Es512 {
    pub(super) fn of(given: Given) -> Result<Self, TokenOptionsError> {
        let wrong = |option| TokenOptionsError::Key { option, method: METHOD.to_owned() };
        let signing = match &given.private {
            Some(pem) => Some(private_key(pem).ok_or_else(|| wrong(PRIVATE_KEY))?),
            None => None,
        };
        let point = match (&given.public, &signing) {
            (Some(pem), _) => public_point(pem).ok_or_else(|| wrong(PUBLIC_KEY))?,
            (None, Some(pair)) => pair.public_key().as_ref().to_vec(),
            (None, None) => return Err(TokenOptionsError::MissingKey),
        };
        if signing.as_ref().is_some_and(|pair| pair.public_key().as_ref() != point) {
            return Err(TokenOptionsError::KeyMismatch);
        }
        let verifying = UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point);
        Ok(Self { signing, verifying, ttl: given.ttl })
    }

    pub(super) fn sign(&self, user: &str, revision: u64) -> Result<String, TokenError> {
        let signing = self.signing.as_ref().ok_or(TokenError::VerifyOnly)?;
        let exp = (now() + self.ttl).as_secs();
        let header = json!({"alg": METHOD, "typ": "JWT"});
        let claims = json!({"exp": exp, "revision": revision, "username": user});
        let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let said = format!("{}.{}", encode(header), encode(claims));
        let signature =
            signing.sign(&SystemRandom::new(), said.as_bytes()).map_err(|_| TokenError::Failed)?;
        Ok(format!("{said}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    pub(super) fn identify(&self, token: &str) -> Option<Identity> {
        let (said, signature) = token.rsplit_once('.')?;
        let (header, claims) = said.split_once('.')?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
        let is_signed = header.alg == METHOD
            && self.verifying.verify(said.as_bytes(), &decode(signature)?).is_ok();
        if !is_signed {
            tracing::warn!("failed to parse a JWT token: it is not signed as it should be");
            return None;
        }
        let claimed: Claimed = serde_json::from_slice(&decode(claims)?).ok()?;
        let now = now().as_secs() as f64;
        if claimed.exp.is_some_and(|end| end < now) || claimed.nbf.is_some_and(|begin| begin > now)
        {
            return None;
        }
        Some(Identity { user: claimed.username, revision: whole_revision(claimed.revision) })
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The key of a file, in either of the two forms that OpenSSL writes.
fn private_key(pem: &[u8]) -> Option<EcdsaKeyPair> {
    let der = pem_block(pem, "PRIVATE KEY").or_else(|| pem_block(pem, "EC PRIVATE KEY"))?;
    EcdsaKeyPair::from_private_key_der(&ECDSA_P521_SHA512_FIXED_SIGNING, &der).ok()
}

fn public_point(pem: &[u8]) -> Option<Vec<u8>> {
    /// Of an uncompressed point: a byte that says so, and two numbers of 521 bits.
    const POINT_BYTES: usize = 1 + 2 * 66;
    let der = pem_block(pem, "PUBLIC KEY")?;
    der.strip_prefix(&PUBLIC_PREFIX).filter(|point| point.len() == POINT_BYTES).map(<[u8]>::to_vec)
}
