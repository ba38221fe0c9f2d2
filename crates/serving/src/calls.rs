//! What a call of gRPC is told by.

use http::{HeaderMap, Request, Version, header};

/// What calls say that they are; some with a suffix (`+proto`).
const GRPC: &[u8] = b"application/grpc";

/// Whether a request is a call of gRPC, as etcd's members and its proxy tell them. A method's path does not make it one: a page of
/// anybody's can have a browser post to any path, with the certificate that the browser has, but not with this type unless it is
/// given leave.
pub fn is_call<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2 && says_call(request.headers())
}

/// Whether a request says that it is one, over whatever version of HTTP.
#[must_use]
pub fn says_call(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(GRPC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_so_over_http_2() {
        let request = |version, kind: &str| {
            Request::post("/etcdserverpb.KV/Put")
                .version(version)
                .header(header::CONTENT_TYPE, kind)
                .body(())
                .unwrap()
        };
        for (version, kind, is_one) in [
            (Version::HTTP_2, "application/grpc", true),
            (Version::HTTP_2, "application/grpc+proto", true),
            (Version::HTTP_2, "application/json", false),
            (Version::HTTP_2, "text/plain", false),
            (Version::HTTP_11, "application/grpc", false),
        ] {
            assert_eq!(is_call(&request(version, kind)), is_one, "{version:?} {kind}");
        }
        assert!(!is_call(&Request::new(())));
        assert!(says_call(request(Version::HTTP_11, "application/grpc").headers()));
    }
}
