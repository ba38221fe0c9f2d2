use rcgen::KeyPair;

use super::*;
use crate::access::Tokens;

/// Key files, made at each run: no key stands in the source.
struct Keys(tempfile::TempDir);

impl Keys {
    fn new() -> Self {
        let keys = Self(tempfile::tempdir().unwrap());
        for (kind, algorithm) in [
            ("rsa", &rcgen::PKCS_RSA_SHA256),
            ("ec", &rcgen::PKCS_ECDSA_P256_SHA256),
            ("p521", &rcgen::PKCS_ECDSA_P521_SHA512),
            ("ed", &rcgen::PKCS_ED25519),
        ] {
            for name in ["a", "b"] {
                let pair = KeyPair::generate_for(algorithm).unwrap();
                std::fs::write(keys.path(&format!("{kind}-{name}.key")), pair.serialize_pem())
                    .unwrap();
                std::fs::write(keys.path(&format!("{kind}-{name}.pub")), pair.public_key_pem())
                    .unwrap();
            }
        }
        std::fs::write(keys.path("secret"), b"\x00secret\xff\n").unwrap();
        std::fs::write(keys.path("empty"), b"").unwrap();
        keys
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// The tokens of these options, in which file names are this folder's.
    fn tokens(&self, options: &str) -> Result<Tokens, TokenOptionsError> {
        let folder = self.0.path().display().to_string();
        Tokens::of(&options.replace('@', &format!("{folder}/")), Duration::ZERO)
    }

    fn jwt(&self, options: &str) -> Box<Jwt> {
        let Ok(Tokens::Jwt(jwt)) = self.tokens(options) else { panic!("{options} is refused") };
        jwt
    }
}

const METHODS: [(&str, &str); 4] =
    [("RS256", "rsa"), ("PS384", "rsa"), ("ES256", "ec"), ("EdDSA", "ed")];

#[test]
fn tokens_say_who_holds_them_to_whoever_has_the_key() {
    let keys = Keys::new();
    let known = Some(Identity { user: "u1".to_owned(), revision: 28 });
    for (method, kind) in METHODS {
        let with = |what: &str| keys.jwt(&format!("jwt,sign-method={method},{what}"));
        let private = with(&format!("priv-key=@{kind}-a.key"));
        let both = with(&format!("pub-key=@{kind}-a.pub,priv-key=@{kind}-a.key"));
        let public = with(&format!("pub-key=@{kind}-a.pub"));
        let other = with(&format!("pub-key=@{kind}-b.pub"));
        let token = private.sign("u1", 28).unwrap();
        for jwt in [&private, &both, &public] {
            assert_eq!(jwt.identify(&token), known, "{method}");
        }
        assert_eq!(other.identify(&token), None, "{method}");
        assert_eq!(public.sign("u1", 28), Err(TokenError::VerifyOnly));
    }
    let secret = keys.jwt("jwt,sign-method=HS256,priv-key=@secret");
    let token = secret.sign("u1", 28).unwrap();
    assert_eq!(secret.identify(&token), known);
    // Another method with the same key, or the public key as a secret, is not what was agreed.
    assert_eq!(keys.jwt("jwt,sign-method=HS512,priv-key=@secret").identify(&token), None);
    let confused = keys.jwt("jwt,sign-method=HS256,priv-key=@rsa-a.pub").sign("root", 99).unwrap();
    assert_eq!(keys.jwt("jwt,sign-method=RS256,pub-key=@rsa-a.pub").identify(&confused), None);
}

#[test]
fn es512_is_a_method_like_the_others() {
    let keys = Keys::new();
    let with = |what: &str| keys.tokens(&format!("jwt,sign-method=ES512,{what}")).unwrap();
    let board = crate::board::Board::new(0);
    let identify = |tokens: &Tokens, token: &str| {
        let identifying = tokens.identify(token, &board, Duration::ZERO, || 0);
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(identifying)
    };
    let private = with("priv-key=@p521-a.key,ttl=1m");
    let public = with("pub-key=@p521-a.pub");
    let token = private.token("u1", "", 0, 28).unwrap();
    let known = Some(Identity { user: "u1".to_owned(), revision: 28 });
    for tokens in [&private, &public, &with("pub-key=@p521-a.pub,priv-key=@p521-a.key")] {
        assert_eq!(identify(tokens, &token), known);
    }
    assert_eq!(public.token("u1", "", 0, 28), Err(TokenError::VerifyOnly));
    assert_eq!(identify(&with("pub-key=@p521-b.pub"), &token), None);
    // Changed, cut, or of another method.
    let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let forged = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .encode(r#"{"exp":99999999999,"revision":28,"username":"root"}"#);
    let none = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let es256 = keys.jwt("jwt,sign-method=ES256,priv-key=@ec-a.key").sign("root", 28).unwrap();
    for token in [
        format!("{header}.{forged}.{signature}"),
        format!("{none}.{claims}.{signature}"),
        format!("{none}.{claims}."),
        format!("{header}.{claims}"),
        format!("{header}.{claims}.{}", &signature[2..]),
        es256,
        String::new(),
        "..".to_owned(),
    ] {
        assert_eq!(identify(&public, &token), None, "{token}");
    }
}

/// What `openssl ecparam -genkey -noout` writes.
#[test]
fn keys_of_openssls_own_form_are_keys() {
    use base64::Engine as _;
    let keys = Keys::new();
    // PKCS #8 holds it as its last value: behind a version and the kind of key.
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let pkcs8 = pair.serialize_der();
    let at = pkcs8.windows(2).position(|bytes| bytes == [0x04, 0x6d]).unwrap();
    let body = base64::engine::general_purpose::STANDARD.encode(&pkcs8[at + 2..]);
    let pem = format!("-----BEGIN EC PRIVATE KEY-----\n{body}\n-----END EC PRIVATE KEY-----\n");
    std::fs::write(keys.path("sec1.key"), pem).unwrap();
    std::fs::write(keys.path("sec1.pub"), pair.public_key_pem()).unwrap();
    let signing = keys.jwt("jwt,sign-method=ES256,priv-key=@sec1.key");
    let token = signing.sign("u1", 28).unwrap();
    let verifying = keys.jwt("jwt,sign-method=ES256,pub-key=@sec1.pub");
    assert_eq!(verifying.identify(&token), Some(Identity { user: "u1".to_owned(), revision: 28 }));
    // On another curve it is no key of this method.
    assert!(keys.tokens("jwt,sign-method=ES384,priv-key=@sec1.key").is_err());
}

/// etcd #15677: a token without the claims crashed the server.
#[test]
fn etcd_15677_tokens_without_the_claims_are_refused() {
    let keys = Keys::new();
    let jwt = keys.jwt("jwt,sign-method=HS256,priv-key=@secret,ttl=0");
    let signing = jwt.signing.as_ref().unwrap();
    let token = |claims: serde_json::Value| {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, signing).unwrap()
    };
    for claims in [
        serde_json::json!({}),
        serde_json::json!({"username": "u1"}),
        serde_json::json!({"revision": 1}),
        serde_json::json!({"username": 1, "revision": 1}),
        serde_json::json!({"username": "u1", "revision": "1"}),
        serde_json::json!({"username": "u1", "revision": 1, "exp": 1}),
        serde_json::json!({"username": "u1", "revision": 1, "nbf": 99_999_999_999_u64}),
    ] {
        assert_eq!(jwt.identify(&token(claims.clone())), None, "{claims}");
    }
    for (revision, expected) in [(serde_json::json!(28.0), 28), (serde_json::json!(-1), 0)] {
        let claims = serde_json::json!({"username": "u1", "revision": revision, "aud": "x"});
        assert_eq!(jwt.identify(&token(claims)).unwrap().revision, expected);
    }
    for text in ["", ".", "..", "a.b.c", "abc.7"] {
        assert_eq!(jwt.identify(text), None, "{text}");
    }
}

#[test]
fn options_are_refused_for_etcd_s_reasons() {
    let keys = Keys::new();
    let invalid = "auth: invalid auth options";
    let missing = "auth: missing key data";
    let mismatch = "auth: public and private keys don't match";
    for (options, expected) in [
        ("other", invalid),
        ("simple,x", invalid),
        ("jwt", invalid),
        ("jwt,sign-method", invalid),
        ("jwt,sign-method=", invalid),
        ("jwt,sign-method=none", invalid),
        ("jwt,sign-method=HS256=x", invalid),
        ("jwt,sign-method=HS256,sign-method=HS256", invalid),
        ("jwt,sign-method=HS256,priv-key=@secret,ttl=x", invalid),
        ("jwt,sign-method=HS256", missing),
        ("jwt,sign-method=HS256,pub-key=@secret", missing),
        ("jwt,sign-method=HS256,priv-key=@empty", missing),
        ("jwt,sign-method=RS256", missing),
        ("jwt,sign-method=RS256,pub-key=@rsa-a.pub,priv-key=@rsa-b.key", mismatch),
        ("jwt,sign-method=ES256,pub-key=@ec-a.pub,priv-key=@ec-b.key", mismatch),
        ("jwt,sign-method=EdDSA,pub-key=@ed-a.pub,priv-key=@ed-b.key", mismatch),
        (
            "jwt,sign-method=RS256,priv-key=@ec-a.key",
            "auth: the key in priv-key is not one for RS256",
        ),
        ("jwt,sign-method=ES256,pub-key=@secret", "auth: the key in pub-key is not one for ES256"),
        ("jwt,sign-method=ES512", missing),
        ("jwt,sign-method=ES512,pub-key=@p521-a.pub,priv-key=@p521-b.key", mismatch),
        (
            "jwt,sign-method=ES512,priv-key=@ec-a.key",
            "auth: the key in priv-key is not one for ES512",
        ),
        (
            "jwt,sign-method=ES512,pub-key=@ec-a.pub",
            "auth: the key in pub-key is not one for ES512",
        ),
    ] {
        let found = keys.tokens(options).map(drop).map_err(|error| error.to_string());
        assert_eq!(found, Err(expected.to_owned()), "{options}");
    }
    let unreadable = keys.tokens("jwt,sign-method=RS256,priv-key=@none").unwrap_err().to_string();
    assert!(unreadable.starts_with(invalid) && unreadable.contains("none"), "{unreadable}");
    assert!(matches!(keys.tokens(""), Ok(Tokens::None)));
    assert!(matches!(keys.tokens("simple"), Ok(Tokens::Simple(_))));
    keys.jwt("jwt,sign-method=HS256,priv-key=@secret,unknown=1,ttl=1h30m");
}

#[test]
fn eddsa_is_of_3_6_and_later() {
    let keys = Keys::new();
    let versions =
        [(5, 30), (6, 0), (7, 1)].map(|(minor, patch)| machine::Version::v3(minor, patch));
    for (method, key) in METHODS {
        let tokens =
            keys.tokens(&format!("jwt,sign-method={method},priv-key=@{key}-a.key")).unwrap();
        let refused =
            versions.map(|version| tokens.check_version(version).map_err(|e| e.to_string()));
        let is_old = method == "EdDSA";
        let expected = "unsupported signing method: *jwt.SigningMethodEd25519".to_owned();
        assert_eq!(
            refused,
            [if is_old { Err(expected) } else { Ok(()) }, Ok(()), Ok(())],
            "{method}"
        );
    }
}

#[test]
fn times() {
    for (text, expected) in [
        ("10m", Some(600_000)),
        ("1h30m", Some(5_400_000)),
        ("1.5s", Some(1_500)),
        ("0", Some(0)),
        ("", None),
        ("5", None),
        ("-5m", None),
        ("5x", None),
        ("m", None),
        ("1.2.3s", None),
    ] {
        assert_eq!(parse_duration(text), expected.map(Duration::from_millis), "{text}");
    }
}
