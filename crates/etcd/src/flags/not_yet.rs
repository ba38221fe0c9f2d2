//! What the flags ask for and the server does not do yet: one place, so that it is easy to see and to take away.

use server::Config;

/// Refuses what is not served, by the flag's name.
pub(super) fn check(config: &Config) -> Result<(), String> {
    let asked = [("enable-pprof", config.enable_pprof)];
    match asked.iter().find(|(_, is_asked)| *is_asked) {
        Some((flag, _)) => Err(format!(
            "--{flag} is a flag of etcd that retcd does not serve yet; only its default is accepted"
        )),
        None => Ok(()),
    }
}
