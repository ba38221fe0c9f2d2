//! The `etcdctl` program: everything is in the library, so that tests reach it.

fn main() {
    let arguments = std::env::args_os().skip(1).collect();
    std::process::exit(etcdctl::run(arguments));
}
