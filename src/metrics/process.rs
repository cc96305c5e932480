//! What the system knows of this process, under the names that every program for Prometheus uses. From `/proc`, so on Linux alone.

use std::fs;

use crate::metrics::Text;

/// In `/proc` the time of a processor is told in ticks, and for programs a second has 100 of them on every machine that Rust is built
/// for, whatever the kernel's own clock is.
const TICKS_PER_SECOND: f64 = 100.0;
/// The fields of `/proc/self/stat` behind the name of the program, which may hold spaces and ends with the last parenthesis.
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;
const THREADS: usize = 17;

/// Tells memory, files and time of a processor. What cannot be read is left out: nothing else depends on it.
pub fn tell_process(text: &mut Text) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let number = |field: usize| fields.get(field).and_then(|it| it.parse::<f64>().ok());
    let mut memory = text.gauge("process_resident_memory_bytes", "Memory that the process has now.");
    if let Some(kib) = number_after(&status, "VmRSS:") {
        memory.put(&[], kib << 10);
    }
    let mut cpu = text.counter("process_cpu_seconds_total", "Time of processors that the process has used.");
    if let (Some(user), Some(system)) = (number(USER_TICKS), number(SYSTEM_TICKS)) {
        cpu.put(&[], (user + system) / TICKS_PER_SECOND);
    }
    let mut threads = text.gauge("process_threads", "Threads of the process.");
    if let Some(count) = number(THREADS) {
        threads.put(&[], count);
    }
    let mut open = text.gauge("process_open_fds", "File descriptors that are open: files and connections.");
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // Without the one that reads the folder.
        open.put(&[], (entries.count() as u64).saturating_sub(1));
    }
    let mut most = text.gauge("process_max_fds", "File descriptors that may be open (LimitNOFILE).");
    if let Some(count) = number_after(&limits, "Max open files") {
        most.put(&[], count);
    }
}

/// The first number behind a word that begins a line.
fn number_after(text: &str, word: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    fn told(text: &str, name: &str) -> f64 {
        text.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap()
    }

    #[test]
    fn it_tells_what_this_process_has() {
        let text = || {
            let mut text = Text::default();
            tell_process(&mut text);
            text.to_string()
        };
        let before = text();
        assert!(told(&before, "process_resident_memory_bytes") > f64::from(1 << 20), "{before}");
        assert!(told(&before, "process_max_fds") >= told(&before, "process_open_fds"), "{before}");
        assert!(told(&before, "process_threads") >= 1.0, "{before}");
        // As much work as it takes: the kernel counts in hundredths of a second.
        let mut sum = 0_u64;
        while told(&text(), "process_cpu_seconds_total") <= told(&before, "process_cpu_seconds_total") {
            sum = (0..1_000_000_u64).fold(sum, |sum, it| sum.wrapping_mul(31).wrapping_add(it));
        }
        assert!(std::hint::black_box(sum) != 1);
    }
}
