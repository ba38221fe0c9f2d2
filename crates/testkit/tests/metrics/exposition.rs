//! A page of `/metrics`, read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

/// What is known of one name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Family {
    /// `counter`, `gauge`, `histogram` or `summary`.
    pub(crate) kind: String,
    /// Names of the labels of its series, but for `le`.
    pub(crate) labels: BTreeSet<String>,
    /// Bounds of its buckets, in order.
    pub(crate) bounds: Vec<String>,
}

/// A page.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// In the page's order.
    pub(crate) names: Vec<String>,
    pub(crate) families: BTreeMap<String, Family>,
    /// Series, as they are written, with their values.
    pub(crate) series: BTreeMap<String, f64>,
}

impl Page {
    /// Reads a page.
    pub(crate) fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut name = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (found, kind) = rest.split_once(' ').unwrap();
                name = found.to_owned();
                page.names.push(name.clone());
                page.families.entry(name.clone()).or_default().kind = kind.to_owned();
                continue;
            }
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let family = page.families.get_mut(&name).expect("its type comes first");
            assert!(series.starts_with(&name), "{series} stands under {name}");
            if let Some((_, labels)) = series.split_once('{') {
                for label in labels.trim_end_matches('}').split("\",") {
                    let (label, value) = label.split_once("=\"").unwrap();
                    let value = value.trim_end_matches('"').to_owned();
                    if label != "le" {
                        family.labels.insert(label.to_owned());
                    } else if !family.bounds.contains(&value) {
                        family.bounds.push(value);
                    }
                }
            }
            let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() };
            assert!(page.series.insert(series.to_owned(), value).is_none(), "{series} twice");
        }
        page
    }

    /// The value of a series, with its labels.
    pub(crate) fn value(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("{series} is not there"))
    }

    /// The sum over all series of that name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let is_of = |series: &str| series.split('{').next() == Some(name);
        self.series.iter().filter(|(series, _)| is_of(series)).map(|(_, value)| value).sum()
    }
}

/// The head and body of the answer to a GET.
pub(crate) fn get(address: &str, path: &str) -> (String, String) {
    get_on(TcpStream::connect(address).unwrap(), path)
}

/// The head of the answer to a POST.
pub(crate) fn post(address: &str, path: &str, headers: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        socket,
        "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().0.to_owned()
}

/// The same over a connection of any kind.
pub(crate) fn get_on(mut socket: impl Read + Write, path: &str) -> (String, String) {
    // HTTP/1.0: the body comes in one piece, and ends with the connection.
    write!(socket, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}
