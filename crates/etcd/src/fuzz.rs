//! The body of the fuzz target of the configuration file (`fuzz/`), as a plain function: the corpus is replayed by an ordinary
//! test too.

use crate::flags;

/// Any bytes are a configuration or a text that says why not, the same twice.
pub fn config_file(bytes: &[u8]) {
    let read = || match flags::read_file(bytes) {
        Ok(parsed) => Ok((format!("{:?}", parsed.config), parsed.notices)),
        Err(why) => Err(why),
    };
    let first = read();
    assert_eq!(first, read(), "a file means the same twice");
    if let Err(why) = first {
        assert!(!why.is_empty(), "a refusal says why");
    }
}
