//! What the operating system knows of this process (`/proc/self`), under the names of the Go library.
//!
//! A figure that cannot be read is left out.

use std::{fs, io};

use super::text::{Kind, Page};

/// Figures of the process.
pub(super) fn add(page: &mut Page) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; the fields are counted from its end. The first of them is the third of all.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<f64>().ok());
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    let mut gauge = |name, help, value: Option<f64>| {
        if let Some(value) = value {
            page.gauge(name, help, value);
        }
    };
    let page_bytes = rustix::param::page_size() as f64;
    gauge(
        "process_resident_memory_bytes",
        "Memory of this process that is in RAM.",
        field(24).map(|pages| pages * page_bytes),
    );
    gauge("process_virtual_memory_bytes", "Address space of this process.", field(23));
    let start = field(22).and_then(|ticks| Some(boot_time()? + ticks / ticks_per_second));
    gauge("process_start_time_seconds", "Start of this process, in seconds since 1970.", start);
    let open = open_descriptors().ok().map(|open| open as f64);
    gauge("process_open_fds", "Open file descriptors.", open);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files_max = descriptor_limit().ok().map(|limit| limit as f64);
    gauge("process_max_fds", "Most file descriptors that may be open.", files_max);
    gauge(
        "process_virtual_memory_max_bytes",
        "Largest address space that this process may have.",
        limit(&limits, "Max address space"),
    );
    gauge("os_fd_used", "Open file descriptors, under etcd's own name.", open);
    gauge(
        "os_fd_limit",
        "Most file descriptors that may be open, under etcd's own name.",
        files_max,
    );
    add_go(&mut gauge, field(20));
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        page.family(
            Kind::Counter,
            "process_cpu_seconds_total",
            "Time of processors that was used.",
        )
        .value(&[], (user + system) / ticks_per_second);
    }
    if let Some((received, sent)) = network_bytes() {
        page.family(
            Kind::Counter,
            "process_network_receive_bytes_total",
            "Bytes received in the network namespace of this process.",
        )
        .value(&[], received);
        page.family(
            Kind::Counter,
            "process_network_transmit_bytes_total",
            "Bytes sent in the network namespace of this process.",
        )
        .value(&[], sent);
    }
}

/// How many descriptors this process has open.
pub(crate) fn open_descriptors() -> io::Result<u64> {
    Ok(fs::read_dir("/proc/self/fd")?.count() as u64)
}

/// How many it may have open; the largest number there is where there is no limit.
pub(crate) fn descriptor_limit() -> io::Result<u64> {
    Ok(rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX))
}

/// There is no Go runtime here. These are the names that dashboards of etcd ask for and that have an honest counterpart;
/// garbage collection has none.
fn add_go(gauge: &mut impl FnMut(&'static str, &'static str, Option<f64>), threads: Option<f64>) {
    let tasks = tokio::runtime::Handle::try_current()
        .ok()
        .map(|runtime| runtime.metrics().num_alive_tasks() as f64);
    let together = threads.zip(tasks).map(|(threads, tasks)| threads + tasks);
    gauge("go_goroutines", "Not of Go: tasks and threads of this process.", together);
    gauge("go_threads", "Not of Go: threads of this process.", threads);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let heap = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).and_then(|line| {
        let kibibytes: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kibibytes * 1024.0)
    });
    let help = "Not of Go: memory of this process that is in RAM and in no file.";
    gauge("go_memstats_alloc_bytes", help, heap);
    gauge("go_memstats_heap_inuse_bytes", help, heap);
}

/// When the machine started, in seconds since 1970.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The soft limit of that name.
fn limit(limits: &str, name: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        // As Go prints the largest number that there is.
        "unlimited" => Some(u64::MAX as f64),
        number => number.parse().ok(),
    }
}

/// What all interfaces together received and sent.
fn network_bytes() -> Option<(f64, f64)> {
    let table = fs::read_to_string("/proc/self/net/netstat").ok()?;
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, values) = (rows.next()?, rows.next()?);
    let of = |wanted: &str| {
        let place = names.split(' ').position(|name| name == wanted)?;
        values.split(' ').nth(place)?.parse::<f64>().ok()
    };
    Some((of("InOctets")?, of("OutOctets")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_there() {
        let mut page = Page::default();
        add(&mut page);
        let text = page.finish();
        for name in [
            "process_resident_memory_bytes",
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_max_fds",
            "process_start_time_seconds",
        ] {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            let value: f64 = line.unwrap_or_else(|| panic!("{name} is missing")).parse().unwrap();
            assert!(value >= 0.0 && (value > 0.0 || name.contains("cpu")), "{name} {value}");
        }
    }

    #[test]
    fn limits() {
        let text = "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\n\
                    Max address space  unlimited  unlimited  bytes\n";
        assert_eq!(limit(text, "Max open files"), Some(1024.0));
        assert_eq!(limit(text, "Max address space"), Some(u64::MAX as f64));
        assert_eq!(limit(text, "Max nothing"), None);
    }
}
