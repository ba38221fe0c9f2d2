//! Tokens that carry who holds them: JSON Web Tokens (RFC 7519), signed by whoever has the private key.
//!
//! Nothing is remembered: a token holds from its making to its end, whatever becomes of the user. Its auth revision is that of
//! its making, so that after any change of users or roles it no longer opens keys.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::Identity;
use super::tokens::{TokenError, TokenOptionsError};

const METHOD: &str = "sign-method";
pub(super) const PUBLIC_KEY: &str = "pub-key";
pub(super) const PRIVATE_KEY: &str = "priv-key";
const TTL: &str = "ttl";

/// etcd's lifetime where none is asked for.
const TTL_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// Makes tokens, checks them, or checks them only.
pub(crate) struct Jwt {
    algorithm: Algorithm,
    /// Absent where only the public key is known.
    signing: Option<EncodingKey>,
    verifying: DecodingKey,
    validation: Validation,
    ttl: Duration,
}

impl fmt::Debug for Jwt {
    /// Leaves the keys out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwt")
            .field("algorithm", &self.algorithm)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// What a token says.
#[derive(Debug, Serialize)]
struct Claims<'a> {
    exp: i64,
    revision: u64,
    username: &'a str,
}

/// The same, of a token that somebody made: numbers may have a fraction, as JSON's do.
#[derive(Debug, Deserialize)]
struct Claimed {
    revision: f64,
    username: String,
}

/// Options of tokens, with what is in the key files.
pub(super) struct Given {
    pub(super) method: String,
    pub(super) public: Option<Vec<u8>>,
    pub(super) private: Option<Vec<u8>>,
    pub(super) ttl: Duration,
}

impl Given {
    /// Reads options and key files.
    pub(super) fn of(options: &BTreeMap<&str, &str>) -> Result<Self, TokenOptionsError> {
        let given = |name: &str| options.get(name).copied().filter(|value| !value.is_empty());
        let method = given(METHOD).ok_or(TokenOptionsError::Invalid)?;
        let ttl = match given(TTL) {
            Some(text) => parse_duration(text).ok_or(TokenOptionsError::Invalid)?,
            None => TTL_DEFAULT,
        };
        let read = |name: &str| match given(name) {
            Some(path) => std::fs::read(path)
                .map(|key| Some(key).filter(|key| !key.is_empty()))
                .map_err(|source| TokenOptionsError::KeyFile { path: path.into(), source }),
            None => Ok(None),
        };
        let (public, private) = (read(PUBLIC_KEY)?, read(PRIVATE_KEY)?);
        let unknown: Vec<&str> = options
            .keys()
            .copied()
            .filter(|name| ![METHOD, PUBLIC_KEY, PRIVATE_KEY, TTL].contains(name))
            .collect();
        if !unknown.is_empty() {
            tracing::warn!(keys = ?unknown, "unknown JWT options");
        }
        Ok(Self { method: method.to_owned(), public, private, ttl })
    }
}

impl Jwt {
    pub(super) fn of(given: Given) -> Result<Self, TokenOptionsError> {
        let Given { method, public, private, ttl } = given;
        let algorithm: Algorithm = method.parse().map_err(|_| TokenOptionsError::Invalid)?;
        let (signing, verifying) = keys(algorithm, public, private)?;
        let mut validation = Validation::new(algorithm);
        // As Go's library: what is there is checked to the second, and nothing has to be there.
        validation.required_spec_claims.clear();
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        let jwt = Self { algorithm, signing, verifying, validation, ttl };
        jwt.check_pair()?;
        Ok(jwt)
    }

    pub(super) fn is_eddsa(&self) -> bool {
        self.algorithm == Algorithm::EdDSA
    }

    /// Refuses keys of which one does not fit what the other makes.
    fn check_pair(&self) -> Result<(), TokenOptionsError> {
        let Some(signing) = &self.signing else { return Ok(()) };
        const MESSAGE: &[u8] = b"a pair of keys";
        let failed = |_| TokenOptionsError::Key {
            option: PRIVATE_KEY,
            method: format!("{:?}", self.algorithm),
        };
        let signature =
            jsonwebtoken::crypto::sign(MESSAGE, signing, self.algorithm).map_err(failed)?;
        let fits =
            jsonwebtoken::crypto::verify(&signature, MESSAGE, &self.verifying, self.algorithm);
        if fits.unwrap_or(false) { Ok(()) } else { Err(TokenOptionsError::KeyMismatch) }
    }

    pub(super) fn sign(&self, user: &str, revision: u64) -> Result<String, TokenError> {
        let signing = self.signing.as_ref().ok_or(TokenError::VerifyOnly)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let exp = i64::try_from((now + self.ttl).as_secs()).unwrap_or(i64::MAX);
        let claims = Claims { exp, revision, username: user };
        jsonwebtoken::encode(&Header::new(self.algorithm), &claims, signing)
            .map_err(|_| TokenError::Failed)
    }

    pub(super) fn identify(&self, token: &str) -> Option<Identity> {
        let claimed = jsonwebtoken::decode::<Claimed>(token, &self.verifying, &self.validation)
            .map_err(|error| tracing::warn!(error = %error, "failed to parse a JWT token"))
            .ok()?
            .claims;
        Some(Identity { user: claimed.username, revision: whole_revision(claimed.revision) })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a float becomes the nearest number of the type, and below zero nobody"
)]
pub(super) fn whole_revision(revision: f64) -> u64 {
    revision as u64
}

/// What is in the first block of that name.
pub(super) fn pem_block(pem: &[u8], name: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once(&format!("-----BEGIN {name}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {name}-----"))?;
    let body: String = body.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(body).ok()
}

type Keys = (Option<EncodingKey>, DecodingKey);

/// The keys in these files. Without a public one, it is taken out of the private one.
fn keys(
    algorithm: Algorithm,
    public: Option<Vec<u8>>,
    private: Option<Vec<u8>>,
) -> Result<Keys, TokenOptionsError> {
    let family = algorithm.family();
    if family == AlgorithmFamily::Hmac {
        // One key for both sides, its bytes as they are.
        let secret = private.ok_or(TokenOptionsError::MissingKey)?;
        return Ok((Some(EncodingKey::from_secret(&secret)), DecodingKey::from_secret(&secret)));
    }
    let wrong =
        |option| move |_| TokenOptionsError::Key { option, method: format!("{algorithm:?}") };
    let signing = private
        .map(|pem| match family {
            AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(&pem),
            AlgorithmFamily::Ec => match of_sec1(&pem, algorithm) {
                Some(pkcs8) => Ok(EncodingKey::from_ec_der(&pkcs8)),
                None => EncodingKey::from_ec_pem(&pem),
            },
            AlgorithmFamily::Ed | AlgorithmFamily::Hmac => EncodingKey::from_ed_pem(&pem),
        })
        .transpose()
        .map_err(wrong(PRIVATE_KEY))?;
    let verifying = public
        .map(|pem| match family {
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(&pem),
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(&pem),
            AlgorithmFamily::Ed | AlgorithmFamily::Hmac => DecodingKey::from_ed_pem(&pem),
        })
        .transpose()
        .map_err(wrong(PUBLIC_KEY))?;
    let verifying = match (verifying, &signing) {
        (Some(verifying), _) => verifying,
        (None, Some(signing)) => public_half(signing, algorithm).map_err(wrong(PRIVATE_KEY))?,
        (None, None) => return Err(TokenOptionsError::MissingKey),
    };
    Ok((signing, verifying))
}

/// The private key of an `EC PRIVATE KEY` block (RFC 5915), which is what `openssl ecparam -genkey` writes, in the form of PKCS #8
/// (RFC 5958), which is all that the library reads. `None` if there is no such block.
fn of_sec1(pem: &[u8], algorithm: Algorithm) -> Option<Vec<u8>> {
    /// `id-ecPublicKey`.
    const EC: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
    const SEQUENCE: u8 = 0x30;
    const OCTETS: u8 = 0x04;
    const VERSION: [u8; 3] = [0x02, 0x01, 0x00];
    let key = pem_block(pem, "EC PRIVATE KEY")?;
    let curve = if algorithm == Algorithm::ES256 { P256 } else { P384 };
    let kind = der(SEQUENCE, &[&EC[..], curve].concat());
    Some(der(SEQUENCE, &[&VERSION[..], &kind, &der(OCTETS, &key)].concat()))
}

/// A value in DER.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let used = length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1);
    let length = length.get(used..).unwrap_or_default();
    let mut value = vec![tag];
    if content.len() > 127 {
        // So many bytes of length.
        value.push(0x80 | u8::try_from(length.len()).unwrap_or(0));
    }
    value.extend_from_slice(length);
    value.extend_from_slice(content);
    value
}

fn public_half(
    signing: &EncodingKey,
    algorithm: Algorithm,
) -> jsonwebtoken::errors::Result<DecodingKey> {
    /// What stands before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410, section 7).
    const ED_PREFIX: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    // Version 2 of PKCS #8 has the same parts and more behind them, which the library does not expect here.
    let plain = match signing.as_bytes().get(ED_PREFIX.len()..ED_PREFIX.len() + 32) {
        Some(key) if algorithm.family() == AlgorithmFamily::Ed => {
            &EncodingKey::from_ed_der(&[&ED_PREFIX, key].concat())
        }
        _ => signing,
    };
    DecodingKey::from_jwk(&Jwk::from_encoding_key(plain, algorithm)?)
}

/// A time in Go's notation, with the units that make sense for a token: `10m`, `1h30m`, `1.5s`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut left = text.strip_prefix('+').unwrap_or(text);
    let mut total = Duration::ZERO;
    if left.is_empty() {
        return None;
    }
    if left == "0" {
        return Some(total);
    }
    while !left.is_empty() {
        let unit_at = left.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = left.split_at(unit_at);
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(unit_end);
        let seconds_each = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds_each).ok()?)?;
        left = rest;
    }
    Some(total)
}

#[cfg(test)]
mod tests;
