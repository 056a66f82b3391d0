use boxgate_storage::clock::ManualClock;

use super::super::image::{Image, Staged};
use super::*;

const HOUR: Duration = Duration::from_hours(1);

fn open(home: &Path) -> Arrivals {
    Arrivals::open(home, "image").unwrap()
}

fn clock(ms: i64) -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(UnixMillis(ms)))
}

async fn begin(arrivals: &Arrivals, beginning: Beginning) -> String {
    let begun = arrivals.begin(beginning, UnixMillis(1_000)).await.unwrap();
    begun.unwrap().0
}

async fn take(arrivals: &Arrivals, id: &str) -> Turn {
    arrivals.find(id).unwrap().take().await.unwrap()
}

/// Sends bytes where the record stands, and has them count.
async fn send(arrivals: &Arrivals, id: &str, bytes: &'static [u8]) -> u64 {
    let turn = take(arrivals, id).await;
    let mut taking = Taking::begin(turn, &[], clock(2_000));
    for chunk in bytes.chunks(3) {
        taking.write(Bytes::from_static(chunk)).await.unwrap();
    }
    taking.finish().await.unwrap().work.record.offset
}

fn names(of: &Path) -> Vec<String> {
    let names = fs::read_dir(of).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn place(arrivals: &Arrivals, image: &Image, id: &str) {
    let mut work = take(arrivals, id).await.work;
    let digest = work.digests().unwrap();
    let blake3 = digest[0].as_bytes().try_into().unwrap();
    let staged = Staged::arrived(work, boxgate_storage::digest::Blake3(blake3));
    image.put_in_place(staged, false).unwrap();
}

#[tokio::test]
async fn what_is_durable_is_there_after_a_start_and_nothing_behind_it() {
    let home = tempfile::tempdir().unwrap();
    let arrivals = open(home.path());
    let sha256 = Digest::from_hex(
        Algorithm::Sha256,
        &hex::encode(<sha2::Sha256 as sha2::Digest>::digest(b"one and two")),
    );
    let beginning = Beginning {
        length: Some(11),
        note: Some("filename aQ==".to_owned()),
        expected: sha256.clone().into_iter().collect(),
        ..Beginning::default()
    };
    let id = begin(&arrivals, beginning).await;
    assert_eq!(send(&arrivals, &id, b"one and").await, 7);
    // What was written and never told of.
    let bytes = arrivals.path(&id);
    let mut file = OpenOptions::new().append(true).open(&bytes).unwrap();
    file.write_all(b"garbage").unwrap();
    drop(arrivals);

    let image = Image::open(&home.path().join("image")).unwrap();
    let arrivals = open(home.path());
    let record = take(&arrivals, &id).await.work.record.clone();
    assert_eq!((record.offset, record.length), (7, Some(11)));
    assert_eq!(record.note.as_deref(), Some("filename aQ=="));
    assert_eq!(send(&arrivals, &id, b" two").await, 11);
    let digests = take(&arrivals, &id).await.work.digests().unwrap();
    assert_eq!(
        digests[0].as_bytes(),
        blake3::hash(b"one and two").as_bytes()
    );
    assert_eq!(Some(&digests[1]), sha256.as_ref());
    place(&arrivals, &image, &id).await;
    assert_eq!(fs::read(home.path().join("image")).unwrap(), b"one and two");
    // A client that lost the answer learns that it is done, also from the next start.
    for arrivals in [&arrivals, &open(home.path())] {
        let record = take(arrivals, &id).await.work.record.clone();
        assert_eq!((record.state, record.offset), (State::Done, 11));
    }
    arrivals.end(&id).await.unwrap();
    assert_eq!(names(home.path()), ["image"]);
}

#[tokio::test]
async fn a_crash_around_the_swap_leaves_an_upload_that_is_done_or_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let arrivals = open(home.path());
    let (before, behind) = (
        begin(&arrivals, Beginning::default()).await,
        begin(&arrivals, Beginning::default()).await,
    );
    for id in [&before, &behind] {
        send(&arrivals, id, b"all").await;
        take(&arrivals, id).await.work.placing().unwrap();
    }
    fs::rename(arrivals.path(&behind), home.path().join("image")).unwrap();
    let arrivals = open(home.path());
    let state = async |id: &str| take(&arrivals, id).await.work.record.state;
    assert_eq!(state(&before).await, State::Open);
    assert_eq!(state(&behind).await, State::Done);
}

#[tokio::test]
async fn a_naming_in_a_store_that_was_cut_is_settled_by_what_has_the_name() {
    let seen = |stamp: &str, bytes: Option<&[u8]>| Seen {
        stamp: stamp.to_owned(),
        blake3: bytes.map(|bytes| Blake3(*blake3::hash(bytes).as_bytes())),
    };
    let of_all = Blake3(*blake3::hash(b"all").as_bytes());
    for (now, expected) in [
        (seen("before", Some(&b"old"[..])), State::Open),
        (seen("ours", Some(&b"all"[..])), State::Done),
        (seen("before", Some(&b"all"[..])), State::Done),
        (seen("newer", Some(&b"new"[..])), State::Done),
        (seen("", None), State::Done),
    ] {
        let home = tempfile::tempdir().unwrap();
        let arrivals = open(home.path());
        let id = begin(&arrivals, Beginning::default()).await;
        send(&arrivals, &id, b"all").await;
        let over = seen("before", Some(&b"old"[..]));
        let mut work = take(&arrivals, &id).await.work;
        work.naming(of_all, &over).unwrap();
        drop(work);
        // By a fault in the same process, and by a crash.
        let arrivals = [arrivals, open(home.path())];
        for arrivals in &arrivals {
            let mut work = take(arrivals, &id).await.work;
            assert_eq!(work.record.state, State::Placing);
            work.settle(&now).unwrap();
            assert_eq!(work.record.state, expected);
        }
        let bytes = arrivals[1].path(&id).exists();
        assert_eq!(bytes, expected == State::Open);
        let work = take(&open(home.path()), &id).await.work;
        assert_eq!(work.record.state, expected);
    }
}

#[tokio::test]
async fn what_belongs_to_no_upload_goes_at_the_start() {
    let home = tempfile::tempdir().unwrap();
    let arrivals = open(home.path());
    let (kept, cut) = (
        begin(&arrivals, Beginning::default()).await,
        begin(&arrivals, Beginning::default()).await,
    );
    send(&arrivals, &kept, b"all").await;
    send(&arrivals, &cut, b"all").await;
    // Stored bytes that are lost.
    fs::write(arrivals.path(&cut), b"a").unwrap();
    for name in ["a", "b.json.new", "c.json"] {
        fs::write(arrivals.path(name), b"{").unwrap();
    }
    fs::write(home.path().join("image.arriving-x"), b"another's").unwrap();
    let arrivals = open(home.path());
    assert!(arrivals.find(&cut).is_none());
    let prefix = prefix_of("image");
    let left = [
        format!("{prefix}{kept}"),
        format!("{prefix}{kept}.json"),
        "image.arriving-x".to_owned(),
    ];
    assert_eq!(names(home.path()), left);
}

#[tokio::test]
async fn an_image_may_have_the_longest_name_and_its_uploads_are_its_own() {
    let home = tempfile::tempdir().unwrap();
    let (name, other) = ("n".repeat(255), "n".repeat(254));
    let arrivals = Arrivals::open(home.path(), &name).unwrap();
    let id = begin(&arrivals, Beginning::default()).await;
    send(&arrivals, &id, b"all").await;
    let others = Arrivals::open(home.path(), &other).unwrap();
    assert!(others.find(&id).is_none());
    assert!(
        Arrivals::open(home.path(), &name)
            .unwrap()
            .find(&id)
            .is_some()
    );
}

#[tokio::test]
async fn a_newer_request_ends_the_one_before_which_keeps_what_came() {
    let home = tempfile::tempdir().unwrap();
    let arrivals = open(home.path());
    let id = begin(&arrivals, Beginning::default()).await;
    let older = take(&arrivals, &id).await;
    let over = older.over.clone();
    let mut taking = Taking::begin(older, &[], clock(2_000));
    taking.write(Bytes::from_static(b"some")).await.unwrap();
    let arrival = arrivals.find(&id).unwrap();
    let newer = tokio::spawn(async move { arrival.take().await.unwrap() });
    over.cancelled().await;
    // As where a client goes away, and its request is dropped.
    drop(taking);
    assert_eq!(newer.await.unwrap().work.record.offset, 4);
}

#[tokio::test]
async fn bytes_that_are_compared_count_only_afterwards() {
    let home = tempfile::tempdir().unwrap();
    let arrivals = open(home.path());
    let id = begin(&arrivals, Beginning::default()).await;
    send(&arrivals, &id, b"one").await;
    for (counts, expected) in [(false, 3), (true, 6)] {
        let turn = take(&arrivals, &id).await;
        let mut taking = Taking::begin(turn, &[Algorithm::Crc32], clock(2_000));
        taking.write(Bytes::from_static(b"two")).await.unwrap();
        let taken = taking.finish().await.unwrap();
        let digest = taken.of_body().next().unwrap();
        let mut of_two = DigestHasher::new(Algorithm::Crc32);
        of_two.update(b"two");
        assert_eq!(digest, of_two.finish());
        if counts {
            taken.commit(UnixMillis(3_000)).unwrap();
        } else {
            drop(taken);
        }
        assert_eq!(take(&arrivals, &id).await.work.record.offset, expected);
    }
    let digests = take(&arrivals, &id).await.work.digests().unwrap();
    assert_eq!(digests[0].as_bytes(), blake3::hash(b"onetwo").as_bytes());
}

#[tokio::test]
async fn who_rests_the_longest_gives_way_and_whoever_sends_does_not() {
    let home = tempfile::tempdir().unwrap();
    let arrivals = open(home.path());
    let mut begun = Vec::new();
    for n in (0_i64..).take(MOST_OPEN) {
        let begins = arrivals.begin(Beginning::default(), UnixMillis(1_000 + n));
        begun.push(begins.await.unwrap().unwrap().0);
    }
    let held = take(&arrivals, &begun[0]).await;
    let later = UnixMillis(2_000).plus(GIVES_WAY);
    let next = arrivals.begin(Beginning::default(), later).await.unwrap();
    let (next, _) = next.unwrap();
    assert!(arrivals.find(&begun[1]).is_none());
    for id in begun.iter().filter(|id| **id != begun[1]).chain([&next]) {
        assert!(arrivals.find(id).is_some());
    }
    assert_eq!(names(home.path()).len(), MOST_OPEN);
    drop(held);
    let next = arrivals.begin(Beginning::default(), later).await.unwrap();
    assert!(next.is_some() && arrivals.find(&begun[0]).is_none());
}

#[tokio::test]
async fn what_nobody_goes_on_with_is_given_up_and_no_more_are_open_than_may_be() {
    let home = tempfile::tempdir().unwrap();
    let arrivals = open(home.path());
    let first = begin(&arrivals, Beginning::default()).await;
    for _ in 1..MOST_OPEN {
        begin(&arrivals, Beginning::default()).await;
    }
    let more = arrivals.begin(Beginning::default(), UnixMillis(1_000));
    assert!(more.await.unwrap().is_none());
    let held = take(&arrivals, &first).await;
    let more = arrivals.begin(Beginning::default(), UnixMillis(1_000).plus(GIVES_WAY));
    assert!(more.await.unwrap().is_none());
    let later = UnixMillis(1_000).plus(HOUR);
    arrivals
        .sweep(UnixMillis(later.0 - 1), HOUR, 2 * HOUR)
        .await;
    assert_eq!(names(home.path()).len(), MOST_OPEN);
    arrivals.sweep(later, HOUR, 2 * HOUR).await;
    assert_eq!(names(home.path()).len(), 1, "one that is held stays");
    drop(held);
    arrivals.sweep(later, HOUR, 2 * HOUR).await;
    assert_eq!(names(home.path()), [""; 0]);
    begin(&arrivals, Beginning::default()).await;
}
