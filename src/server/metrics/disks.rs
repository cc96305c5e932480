//! How much room is left on the disks of a server that keeps something in folders. It is looked up now and then, on a thread that
//! may wait: the disk of a network that hangs must not keep anybody from the other metrics.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::metrics::Gauge;
use crate::metrics::Text;

/// How often: a disk that fills at 500 MB/s has 8 GB less then.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// The folders of a server, with the room on their disks.
#[derive(Debug)]
pub(in crate::server) struct Disks(Vec<Disk>);

#[derive(Debug)]
struct Disk {
    /// What is kept there.
    of: &'static str,
    folder: PathBuf,
    free_bytes: Gauge,
    bytes: Gauge,
}

impl Disks {
    pub(in crate::server) fn new(folders: Vec<(&'static str, PathBuf)>) -> Disks {
        let disk = |(of, folder)| Disk { of, folder, free_bytes: Gauge::default(), bytes: Gauge::default() };
        Disks(folders.into_iter().map(disk).collect())
    }

    /// Looks at them until told to stop.
    pub(in crate::server) async fn watch(self: Arc<Disks>, stop: CancellationToken) {
        loop {
            let disks = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || disks.0.iter().for_each(Disk::look));
            tokio::select! {
                () = stop.cancelled() => return,
                looked = looked => drop(looked),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    pub(in crate::server) fn tell(&self, text: &mut Text) {
        let (free, all) = (
            "Bytes that the server may still write on the disk of the folder; none where nothing is in a folder.",
            "Bytes of the disk of the folder.",
        );
        text.gauge("keepbest_disk_free_bytes", free);
        text.gauge("keepbest_disk_bytes", all);
        // Until it was looked at it is not known, and 0 would be an alarm.
        for disk in self.0.iter().filter(|it| it.bytes.get() > 0) {
            text.gauge("keepbest_disk_free_bytes", free).put(&[("of", disk.of)], &disk.free_bytes);
            text.gauge("keepbest_disk_bytes", all).put(&[("of", disk.of)], &disk.bytes);
        }
    }
}

impl Disk {
    /// What cannot be looked up keeps its old value.
    fn look(&self) {
        if let Ok(found) = rustix::fs::statvfs(&self.folder) {
            let bytes =
                |blocks: u64| i64::try_from(blocks.saturating_mul(found.f_frsize)).unwrap_or(i64::MAX);
            // Not those that are kept for root.
            self.free_bytes.set(bytes(found.f_bavail));
            self.bytes.set(bytes(found.f_blocks));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(disks: &Disks) -> String {
        let mut text = Text::default();
        disks.tell(&mut text);
        text.to_string()
    }

    #[test]
    fn a_folder_tells_its_disk_once_it_was_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let disks = Disks::new(vec![("database", folder.path().to_owned()), ("objects", missing)]);
        assert!(!told(&disks).contains("of="), "{}", told(&disks));
        disks.0.iter().for_each(Disk::look);
        let text = told(&disks);
        let value = |name: &str| -> f64 {
            let line =
                text.lines().find(|it| it.starts_with(&format!("{name}{{of=\"database\"}} "))).unwrap();
            line.split(' ').nth(1).unwrap().parse().unwrap()
        };
        assert!(value("keepbest_disk_bytes") > value("keepbest_disk_free_bytes"), "{text}");
        assert!(!text.contains("objects"), "{text}");
    }
}
