//! A disk for one member, with faults: a file system in a file, mounted, that can be frozen or filled.
//!
//! A shell owns the mount and does what it is told on its standard input. When that ends, for whatever reason (dropped, an
//! interrupt, kill -9 of the test), it thaws and unmounts: a file system that stayed frozen would hold its writers for
//! ever, unkillable. The image stays in the run's folder; `mount -o loop` shows it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};

/// Room for two segments of the log, which are allocated in full, a database, and the file system's own.
const MEGABYTES: u64 = 256;

/// No blocks are kept for root: members run as root, and a full disk is to be full for them too.
const MAKE: &[&str] = &["-q", "-F", "-m", "0"];

/// Parameters: the image, the mount point. Each order is answered with `ok` or `failed`.
const KEEPER: &str = r#"
trap '' INT TERM HUP
PATH=$PATH:/usr/sbin:/sbin
mount -o loop "$1" "$2" || exit 1
echo ok
while read -r order; do
    case $order in
        freeze) fsfreeze -f "$2" ;;
        thaw) fsfreeze -u "$2" ;;
        fill)
            # In one piece what goes, and the rest until nothing goes.
            fallocate -l "$(df -P -B1 "$2" | awk 'NR == 2 {print $4}')" "$2/filler" 2>/dev/null
            ! cat /dev/zero >"$2/filler.rest" 2>/dev/null
            ;;
        free) rm -f "$2/filler" "$2/filler.rest" ;;
        *) false ;;
    esac && echo ok || echo failed
done
fsfreeze -u "$2" 2>/dev/null
umount -l "$2"
"#;

/// A mounted file system of its own.
#[derive(Debug)]
pub(crate) struct Disk {
    mount: PathBuf,
    keeper: Child,
    /// `None` once the keeper is to end.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Disk {
    /// Makes a file system in `IMAGE.img` and mounts it at `IMAGE`.
    pub(crate) async fn new(mount: &Path) -> Result<Self> {
        let image = mount.with_extension("img");
        std::fs::create_dir_all(mount).context("make a mount point")?;
        let file = std::fs::File::create(&image).context("make an image")?;
        file.set_len(MEGABYTES << 20).context("size an image")?;
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let mut make = tokio::process::Command::new("mkfs.ext4");
        let made = make.args(MAKE).arg(&image).env("PATH", path).output().await;
        let made = made.context("run mkfs.ext4 (e2fsprogs)")?;
        ensure!(made.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&made.stderr));
        let mut keeper = Command::new("/bin/sh")
            .args(["-c", KEEPER, "keeper"])
            .args([&image, mount])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the keeper of a disk")?;
        let orders = keeper.stdin.take().context("the keeper's input")?;
        let answers = keeper.stdout.take().context("the keeper's output")?;
        let mut disk = Self {
            mount: mount.to_owned(),
            keeper,
            orders: Some(ChildStdin::from_std(orders).context("the keeper's input")?),
            answers: BufReader::new(ChildStdout::from_std(answers).context("the keeper's output")?),
        };
        disk.answer("mount").await?;
        Ok(disk)
    }

    /// Lets every write and sync wait from now on.
    pub(crate) async fn freeze(&mut self) -> Result<()> {
        self.order("freeze").await
    }

    /// Lets writes go on.
    pub(crate) async fn thaw(&mut self) -> Result<()> {
        self.order("thaw").await
    }

    /// Takes all the room that is left.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        self.order("fill").await
    }

    /// Gives that room back.
    pub(crate) async fn free(&mut self) -> Result<()> {
        self.order("free").await
    }

    async fn order(&mut self, order: &str) -> Result<()> {
        let orders = self.orders.as_mut().context("the keeper has ended")?;
        orders.write_all(format!("{order}\n").as_bytes()).await.context("tell the keeper")?;
        self.answer(order).await
    }

    async fn answer(&mut self, order: &str) -> Result<()> {
        let mut line = String::new();
        self.answers.read_line(&mut line).await.context("ask the keeper")?;
        ensure!(line == "ok\n", "{order} {}: {line:?}", self.mount.display());
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The end of its input tells the keeper to thaw and to unmount. What it cannot do, nobody here could.
        self.orders = None;
        let _ = self.keeper.wait();
    }
}

/// Why disks cannot be made here, if so: that takes root, loop devices and e2fsprogs.
pub(crate) async fn obstacle() -> Option<String> {
    let folder = match tempfile::Builder::new().prefix("retcd-disk-").tempdir() {
        Ok(folder) => folder,
        Err(error) => return Some(error.to_string()),
    };
    let tried = async {
        let mut disk = Disk::new(&folder.path().join("disk")).await?;
        disk.freeze().await?;
        disk.thaw().await
    };
    tried.await.err().map(|error| format!("{error:#}"))
}
