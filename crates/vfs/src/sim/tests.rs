use super::*;

fn put(dir: &Arc<dyn Dir>, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = dir.open(name, OpenMode::Create).unwrap();
    file.write_at(bytes, 0).unwrap();
    file
}

fn get(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.dir().open(name, OpenMode::Read).ok()?;
    let mut bytes = vec![0; usize::try_from(file.len_bytes().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

/// A disk with a durable file "a" of two sectors of `old`.
fn two_sectors(old: u8) -> (SimDisk, Arc<dyn File>) {
    let disk = SimDisk::new();
    let file = put(&disk.dir(), "a", &[old; 1024]);
    file.sync_data().unwrap();
    disk.dir().sync().unwrap();
    (disk, file)
}

#[test]
fn passes_the_suite() {
    crate::suite::run(&SimDisk::new().dir());
    crate::suite::run(
        &SimDisk::with_model(Model { dir_order: DirOrder::Journal, names_follow_file_sync: true })
            .dir(),
    );
}

#[test]
fn content_without_a_name_is_lost() {
    let disk = SimDisk::new();
    put(&disk.dir(), "a", b"abc").sync_all().unwrap();
    assert_eq!(get(&disk.crash_image(&mut LoseAll), "a"), None);
    disk.dir().sync().unwrap();
    assert_eq!(get(&disk.crash_image(&mut LoseAll), "a").unwrap(), b"abc");
}

#[test]
fn a_name_without_content_is_empty() {
    let disk = SimDisk::new();
    put(&disk.dir(), "a", b"abc");
    disk.dir().sync().unwrap();
    assert_eq!(get(&disk.crash_image(&mut LoseAll), "a").unwrap(), b"");
    assert_eq!(get(&disk.crash_image(&mut KeepAll), "a").unwrap(), b"abc");
}

#[test]
fn names_follow_file_sync_where_the_model_says_so() {
    let disk = SimDisk::with_model(Model { names_follow_file_sync: true, ..Model::default() });
    let file = put(&disk.dir(), "a", b"abc");
    put(&disk.dir(), "b", b"b");
    file.sync_all().unwrap();
    let after = disk.crash_image(&mut LoseAll);
    assert_eq!(get(&after, "a").unwrap(), b"abc");
    assert_eq!(get(&after, "b"), None);
}

#[test]
fn sectors_survive_each_for_itself() {
    let (disk, file) = two_sectors(1);
    file.write_at(&[2; 1024], 0).unwrap();
    let inner = disk.lock();
    let plan = CrashPlan::new(&inner.state);
    assert_eq!(plan.images_count(), 4);
    let mut seen: Vec<(u8, u8)> = plan
        .picks(100, 0)
        .map(|picks| {
            let bytes = get(&plan.image(&picks), "a").unwrap();
            (bytes[0], bytes[512])
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [(1, 1), (1, 2), (2, 1), (2, 2)]);
}

#[test]
fn a_sector_can_hold_any_version_since_the_sync() {
    let (disk, file) = two_sectors(1);
    file.write_at(&[2; 10], 0).unwrap();
    file.write_at(&[3; 10], 5).unwrap();
    let inner = disk.lock();
    let plan = CrashPlan::new(&inner.state);
    let seen: Vec<Vec<u8>> = plan
        .picks(100, 0)
        .map(|picks| get(&plan.image(&picks), "a").unwrap()[4..16].to_vec())
        .collect();
    assert_eq!(
        seen,
        [
            vec![1; 12],
            vec![2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1],
            vec![2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 1],
        ]
    );
}

#[test]
fn growth_is_lost_with_what_was_written_there() {
    let (disk, file) = two_sectors(1);
    file.write_at(&[2; 512], 1024).unwrap();
    let mut only_sectors = |choice: &Choice| match choice.what {
        Unsynced::Length { .. } | Unsynced::Names { .. } => 0,
        Unsynced::Sector { .. } => 1,
    };
    assert_eq!(get(&disk.crash_image(&mut only_sectors), "a").unwrap(), [1; 1024]);
    let mut only_length =
        |choice: &Choice| u32::from(matches!(choice.what, Unsynced::Length { .. }));
    assert_eq!(
        get(&disk.crash_image(&mut only_length), "a").unwrap(),
        [vec![1; 1024], vec![0; 512]].concat()
    );
}

#[test]
fn a_truncation_that_is_lost_takes_later_writes_along() {
    let (disk, file) = two_sectors(1);
    file.set_len(512).unwrap();
    file.allocate(1024).unwrap();
    file.write_at(&[2; 1024], 0).unwrap();
    let with = |lengths: u32| {
        let mut chooser = |choice: &Choice| match choice.what {
            Unsynced::Length { .. } => lengths,
            Unsynced::Sector { .. } | Unsynced::Names { .. } => 1,
        };
        get(&disk.crash_image(&mut chooser), "a").unwrap()
    };
    assert_eq!(with(0), [vec![2; 512], vec![1; 512]].concat());
    assert_eq!(with(1), [2; 512]);
    assert_eq!(with(2), [2; 1024]);
    file.sync_data().unwrap();
    assert_eq!(with(0), [2; 1024]);
}

#[test]
fn renames_and_removals_need_a_directory_sync() {
    let disk = SimDisk::new();
    let dir = disk.dir();
    put(&dir, "a", b"a").sync_all().unwrap();
    put(&dir, "b", b"b").sync_all().unwrap();
    dir.sync().unwrap();
    dir.rename("a", "b").unwrap();
    let lost = disk.crash_image(&mut LoseAll);
    assert_eq!(
        (get(&lost, "a").unwrap(), get(&lost, "b").unwrap()),
        (b"a".to_vec(), b"b".to_vec())
    );
    let kept = disk.crash_image(&mut KeepAll);
    assert_eq!((get(&kept, "a"), get(&kept, "b").unwrap()), (None, b"a".to_vec()));
    dir.remove("b").unwrap();
    // A removal means the file that had the name then: alone, without the rename before it, it leaves the old "b".
    let mut turn = 0;
    let mut removal_only = |_: &Choice| {
        turn += 1;
        u32::from(turn == 2)
    };
    assert_eq!(get(&disk.crash_image(&mut removal_only), "b").unwrap(), b"b");
    dir.sync().unwrap();
    assert_eq!(disk.crash_image(&mut LoseAll).dir().list().unwrap(), []);
}

#[test]
fn a_journalling_file_system_keeps_a_prefix_of_names() {
    let disk = SimDisk::with_model(Model { dir_order: DirOrder::Journal, ..Model::default() });
    for name in ["a", "b", "c"] {
        put(&disk.dir(), name, b"");
    }
    let inner = disk.lock();
    let plan = CrashPlan::new(&inner.state);
    let counts: Vec<usize> =
        plan.picks(100, 0).map(|picks| plan.image(&picks).dir().list().unwrap().len()).collect();
    assert_eq!(counts, [0, 1, 2, 3]);
}

#[test]
fn a_failed_sync_loses_what_was_dirty() {
    let (disk, file) = two_sectors(1);
    disk.inject(Fault::once(FaultKind::Sync, 0));
    file.write_at(&[2; 512], 0).unwrap();
    file.sync_data().unwrap_err();
    assert_eq!(get(&disk, "a").unwrap()[0], 2, "still readable");
    file.sync_data().unwrap();
    assert_eq!(get(&disk.crash_image(&mut KeepAll), "a").unwrap(), [1; 1024], "and never written");
    file.write_at(&[3; 512], 512).unwrap();
    file.sync_data().unwrap();
    assert_eq!(
        get(&disk.crash_image(&mut LoseAll), "a").unwrap(),
        [vec![1; 512], vec![3; 512]].concat()
    );
}

#[test]
fn faults_count_calls_and_match_names() {
    let (disk, file) = two_sectors(1);
    let other = put(&disk.dir(), "b", b"b");
    disk.inject(Fault { kind: FaultKind::Read, name: Some("a".to_owned()), skip: 1, times: 2 });
    disk.inject(Fault::once(FaultKind::Write, 1));
    disk.inject(Fault::once(FaultKind::SyncDir, 0));
    let mut buf = [0; 4];
    other.read_at(&mut buf, 0).unwrap();
    file.read_at(&mut buf, 0).unwrap();
    assert_eq!(
        file.read_at(&mut buf, 0).unwrap_err().raw_os_error(),
        Some(Errno::IO.raw_os_error())
    );
    file.map(4).unwrap_err();
    file.read_at(&mut buf, 0).unwrap();
    other.write_at(b"x", 0).unwrap();
    file.write_at(b"x", 0).unwrap_err();
    disk.dir().sync().unwrap_err();
    disk.dir().sync().unwrap();
}

#[test]
fn a_full_disk_takes_a_part_and_then_refuses() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(10_000));
    let dir = disk.dir();
    let file = put(&dir, "a", &[1; 6_000]);
    let other = dir.open("b", OpenMode::Create).unwrap();
    assert_eq!(other.write_at(&[2; 6_000], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(other.len_bytes().unwrap(), 4_000);
    assert_eq!(file.allocate(6_001).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_at(&[3; 6_000], 0).unwrap();
    dir.remove("b").unwrap();
    file.allocate(10_000).unwrap();
    assert_eq!(disk.used_bytes(), 10_000);
}

#[test]
fn a_flipped_bit_is_on_the_platter() {
    let (disk, file) = two_sectors(1);
    let before = file.map(1024).unwrap();
    disk.flip_bit("a", 8 * 600 + 1).unwrap();
    assert_eq!(before.bytes()[600], 1);
    assert_eq!(file.map(1024).unwrap().bytes()[600], 3);
    assert_eq!(get(&disk.crash_image(&mut LoseAll), "a").unwrap()[600], 3);
    disk.flip_bit("a", 8 * 1024).unwrap_err();
    disk.flip_bit("none", 0).unwrap_err();
}

#[test]
fn handles_die_with_the_process() {
    let (disk, file) = two_sectors(1);
    let dir = disk.dir();
    assert!(file.try_lock(Lock::Record).unwrap());
    file.write_at(&[2; 1024], 0).unwrap();
    disk.kill();
    file.read_at(&mut [0], 0).unwrap_err();
    dir.list().unwrap_err();
    let again = disk.dir().open("a", OpenMode::ReadWrite).unwrap();
    assert!(again.try_lock(Lock::Record).unwrap(), "the dead process holds no lock");
    assert_eq!(get(&disk, "a").unwrap(), [2; 1024], "a kill loses nothing that was written");
    drop(file);
    disk.crash(&mut LoseAll);
    assert_eq!(get(&disk, "a").unwrap(), [1; 1024]);
}

#[test]
fn unchanged_files_share_their_view() {
    let (_disk, file) = two_sectors(1);
    let first = file.map(1024).unwrap();
    let second = file.map(4096).unwrap();
    assert!(std::ptr::eq(first.bytes(), second.bytes()));
    file.write_at(b"x", 0).unwrap();
    assert_eq!(file.map(4096).unwrap().bytes()[0], b'x');
}

/// A workload over several files, directories, renames and truncations.
fn workload(disk: &SimDisk, seed: u64) {
    let mut seeded = Seeded::new(seed);
    let dir = disk.dir();
    let sub = dir.create_subdir("sub").unwrap();
    for step in 0..60u64 {
        let dir = if seeded.below(2) == 0 { &dir } else { &sub };
        let name = ["a", "b", "c"][seeded.below(3)];
        let Ok(file) = dir.open(name, OpenMode::Create) else { continue };
        match seeded.below(9) {
            0 => drop(dir.rename(name, "d")),
            1 => dir.remove(name).unwrap(),
            2 => file.set_len(seeded.below(5000) as u64).unwrap(),
            3 => file.allocate(seeded.below(100_000) as u64).unwrap(),
            4 => file.sync_data().unwrap(),
            5 => dir.sync().unwrap(),
            _ => {
                let data = vec![u8::try_from(step).unwrap(); seeded.below(3000)];
                file.write_at(&data, seeded.below(6000) as u64).unwrap();
            }
        }
        disk.mark(step);
    }
}

fn digest(disk: &SimDisk) -> String {
    let mut text = String::new();
    for dir in [disk.dir()].into_iter().chain(disk.dir().subdir("sub")) {
        for entry in dir.list().unwrap() {
            let bytes = dir.open(&entry.name, OpenMode::Read).ok().map(|file| {
                let mut bytes = vec![0; usize::try_from(file.len_bytes().unwrap()).unwrap()];
                file.read_at(&mut bytes, 0).unwrap();
                let hash =
                    |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
                (bytes.len(), bytes.iter().fold(0xcbf2_9ce4_8422_2325, hash))
            });
            text += &format!("{entry:?} {bytes:?}\n");
        }
    }
    text
}

#[test]
fn a_replay_ends_where_the_live_disk_is() {
    for seed in 0..50 {
        let disk = SimDisk::new();
        disk.record();
        workload(&disk, seed);
        let live: Vec<String> =
            (0..5).map(|crash| digest(&disk.crash_image(&mut Seeded::new(crash)))).collect();
        let written = digest(&disk);
        let journal = disk.take_journal();
        let mut replayer = Replayer::new(&journal);
        while replayer.advance().is_some() {}
        assert_eq!(digest(&replayer.disk()), written, "seed {seed}");
        let replayed: Vec<String> = (0..5)
            .map(|crash| digest(&SimDisk::replay(&journal, usize::MAX, &mut Seeded::new(crash))))
            .collect();
        assert_eq!(replayed, live, "seed {seed}");
    }
}

#[test]
fn the_same_seeds_give_the_same_images() {
    let run = || {
        let disk = SimDisk::new();
        disk.record();
        workload(&disk, 7);
        let journal = disk.take_journal();
        let mut replayer = Replayer::new(&journal);
        let mut text = String::new();
        while replayer.advance().is_some() {
            let plan = replayer.plan();
            for picks in plan.picks(8, 3) {
                text += &digest(&plan.image(&picks));
            }
        }
        text
    };
    assert!(run() == run());
}

#[test]
fn everything_kept_is_what_was_written_and_everything_synced_is_kept() {
    for seed in 0..50 {
        let disk = SimDisk::with_model(Model { dir_order: DirOrder::Journal, ..Model::default() });
        workload(&disk, seed);
        let written = digest(&disk);
        assert_eq!(digest(&disk.crash_image(&mut KeepAll)), written, "seed {seed}");
        for dir in [disk.dir(), disk.dir().subdir("sub").unwrap()] {
            for entry in dir.list().unwrap().into_iter().filter(|entry| !entry.is_dir) {
                dir.open(&entry.name, OpenMode::Read).unwrap().sync_all().unwrap();
            }
            dir.sync().unwrap();
        }
        assert_eq!(digest(&disk.crash_image(&mut LoseAll)), written, "seed {seed}");
    }
}

/// The budget of the crash tests: 200,000 images of a disk with a 64 MB segment and a database in minutes.
#[test]
fn images_are_cheap() {
    let disk = SimDisk::new();
    let dir = disk.dir();
    let segment = dir.open("0.wal", OpenMode::Create).unwrap();
    segment.allocate(64_000_000).unwrap();
    segment.write_at(&[1; 300_000], 0).unwrap();
    segment.sync_data().unwrap();
    put(&dir, "db", &[2; 200_000]).sync_data().unwrap();
    dir.sync().unwrap();
    disk.record();
    for batch in 0..20 {
        segment.write_at(&[3; 700], 300_000 + batch * 700).unwrap();
    }
    let journal = disk.take_journal();
    let mut replayer = Replayer::new(&journal);
    while replayer.advance().is_some() {}
    let plan = replayer.plan();
    let started = std::time::Instant::now();
    let images = plan
        .picks(2000, 1)
        .map(|picks| plan.image(&picks).dir().list().unwrap().len())
        .sum::<usize>();
    let elapsed = started.elapsed();
    assert_eq!(images, 4000);
    println!("{} µs an image", elapsed.as_micros() / 2000);
    assert!(elapsed.as_secs() < 10, "{elapsed:?}");
}
