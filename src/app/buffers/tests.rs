//! Who gets room, who waits for it, and who gives way.

use futures::FutureExt;

use super::*;

const MIB: u64 = 1 << 20;

/// A caller's stream that sends.
fn sender(buffers: &Buffers, caller: u64) -> Held {
    Caller::new(caller).enter(|| buffers.sender())
}

#[tokio::test]
async fn a_caller_has_its_share_and_the_others_have_the_rest() {
    let buffers = Buffers::of_downloads(64 * MIB);
    let [one, two] = [1, 2].map(|caller| sender(&buffers, caller));
    let mut held = Vec::new();
    while let Some(room) = one.take(8 * MIB).now_or_never() {
        held.push(room.unwrap());
    }
    assert_eq!(held.iter().map(Taken::units).sum::<u64>() * UNIT_BYTES, 24 * MIB);
    let mut more = Box::pin(one.take(8 * MIB));
    assert!(more.as_mut().now_or_never().is_none());
    let others: Vec<_> = (0..3).map(|_| two.take(8 * MIB).now_or_never().unwrap().unwrap()).collect();
    held.pop();
    assert!(more.now_or_never().unwrap().is_ok());
    drop((held, others));
}

#[tokio::test]
async fn only_so_many_wait_and_a_caller_with_less_goes_before_one_with_more() {
    let buffers = Buffers::of_uploads(64 * MIB);
    let [one, two] = [1, 2].map(|caller| sender(&buffers, caller));
    let mut held = Vec::new();
    while let Some(room) = one.take_first(MIB).now_or_never() {
        held.push(room.unwrap());
    }
    let mut waiting: Vec<_> = (0..WAITING_UPLOADS).map(|_| Box::pin(one.take_first(MIB))).collect();
    for wait in &mut waiting {
        assert!(wait.now_or_never().is_none());
    }
    let refused = one.take_first(MIB).now_or_never().expect("one more does not wait").unwrap_err();
    assert!(matches!(&refused, Error::Refused(it) if it.reason == "OVERLOADED"), "{refused:?}");
    assert!(Caller::new(1).enter(|| buffers.check_crowd()).is_err());
    assert!(Caller::new(2).enter(|| buffers.check_crowd()).is_ok());
    assert!(two.take_first(MIB).now_or_never().unwrap().is_ok());
}

#[tokio::test]
async fn what_is_small_waits_for_either_part_and_what_is_too_large_gets_a_share() {
    let buffers = Buffers::of_downloads(64 * MIB);
    let take = |caller, bytes| Caller::new(caller).scope(buffers.take(bytes));
    let streams = [take(1, u64::MAX).await.unwrap(), take(2, u64::MAX).await.unwrap()];
    assert_eq!((streams[0].units() + streams[1].units()) * UNIT_BYTES, 56 * MIB);
    assert!(take(3, SMALL_BYTES + 1).now_or_never().is_none());
    let small = [take(3, SMALL_BYTES).await.unwrap(), take(4, SMALL_BYTES).await.unwrap()];
    let mut waiting = Box::pin(take(5, SMALL_BYTES));
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(small);
    drop(waiting.await.unwrap());
    drop(streams);
}

#[tokio::test]
async fn hundreds_of_small_saves_have_room_at_once() {
    let buffers = Buffers::of_uploads(256 * MIB);
    let taken = (0..400).map(|number| {
        let room = Caller::new(number % 8).scope(buffers.take(1_000)).now_or_never();
        room.unwrap_or_else(|| panic!("save {number} waits")).unwrap()
    });
    assert_eq!(taken.collect::<Vec<_>>().len(), 400);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_slow_gives_way_at_a_time() {
    let buffers = Buffers::of_uploads(64 * MIB);
    let streams = [1, 2].map(|caller| sender(&buffers, caller));
    let mut nexts = streams.each_ref().map(|it| Box::pin(it.next(std::future::pending::<usize>(), |it| *it)));
    let mut ended = || nexts.iter_mut().filter_map(|it| it.as_mut().now_or_never()).collect::<Vec<_>>();
    assert_eq!(ended().len(), 0);
    buffers.holders.ask_slowest(None);
    assert_eq!(ended().len(), 0, "not known yet");
    tokio::time::advance(Duration::from_secs(10)).await;
    buffers.holders.ask_slowest(Some(3));
    assert_eq!(ended().len(), 0, "it is of another caller");
    buffers.holders.ask_slowest(Some(2));
    buffers.holders.ask_slowest(None);
    assert!(matches!(&ended()[..], [Err(it)] if it.reason == "OVERLOADED"), "one at a time");
}
