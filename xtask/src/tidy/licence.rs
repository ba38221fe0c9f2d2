//! SPDX expressions, as far as crates use them: names, `AND`, `OR`, `WITH`, parentheses, and the old `/` for `OR`.

/// Licences that may be in what we ship: permissive ones, which ask for a notice at most.
pub(super) const ALLOWED: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Whether one way to read the expression needs allowed licences only. What cannot be read is not allowed.
pub(super) fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { tokens: &tokens };
    let is_allowed = parser.any();
    is_allowed && parser.tokens.is_empty()
}

struct Parser<'t> {
    tokens: &'t [&'t str],
}

impl Parser<'_> {
    fn take(&mut self, token: &str) -> bool {
        match self.tokens.split_first() {
            Some((&first, rest)) if first == token => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    /// `all OR all OR ...`
    fn any(&mut self) -> bool {
        let mut is_allowed = self.all();
        while self.take("OR") {
            is_allowed |= self.all();
        }
        is_allowed
    }

    /// `one AND one AND ...`
    fn all(&mut self) -> bool {
        let mut is_allowed = self.one();
        while self.take("AND") {
            is_allowed &= self.one();
        }
        is_allowed
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let is_allowed = self.any();
            return self.take(")") && is_allowed;
        }
        let Some((&name, rest)) = self.tokens.split_first() else { return false };
        self.tokens = rest;
        if self.take("WITH") {
            let Some((&exception, rest)) = self.tokens.split_first() else { return false };
            self.tokens = rest;
            return ALLOWED.contains(&format!("{name} WITH {exception}").as_str());
        }
        ALLOWED.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "MIT OR LGPL-2.1-or-later",
            "MIT AND BSD-3-Clause",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT",
            "MIT MIT",
            "OpenSSL",
            "GPL-2.0 WITH LLVM-exception",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}
