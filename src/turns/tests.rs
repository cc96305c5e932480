//! Who gets what is free, and who waits.

use futures::FutureExt as _;

use super::*;

#[tokio::test]
async fn who_has_least_goes_first_however_many_another_caller_asks_for() {
    let turns = Turns::new(4, 4, 100);
    let mut held: Vec<Taken> = (0..4).map(|_| turns.try_take(1, 1).unwrap()).collect();
    let mut flood: Vec<_> = (0..50).map(|_| Box::pin(turns.take(1, 1))).collect();
    flood.iter_mut().for_each(|it| assert!(it.as_mut().now_or_never().is_none()));
    let mut others: Vec<_> = [2, 3, 2].map(|caller| Box::pin(turns.take(caller, 1))).into();
    others.iter_mut().for_each(|it| assert!(it.as_mut().now_or_never().is_none()));
    drop(held.pop());
    let second = others.remove(0).now_or_never().unwrap().unwrap();
    drop(held.pop());
    let third = others.remove(0).now_or_never().unwrap().unwrap();
    // Each of the three has one now, and the flood's was given first.
    drop(held.pop());
    assert!(others[0].as_mut().now_or_never().is_none());
    let own = flood[0].as_mut().now_or_never().unwrap().unwrap();
    drop(held.pop());
    let last = others[0].as_mut().now_or_never().unwrap().unwrap();
    assert!(flood[1].as_mut().now_or_never().is_none());
    drop((second, third, last));
    drop(own);
}

#[tokio::test]
async fn a_caller_has_its_share_and_who_waits_is_not_passed_by() {
    let turns = Turns::new(16, 8, 100);
    let first = turns.take(1, 100).await.unwrap();
    assert_eq!(first.units(), 8, "who asks for more than a share gets a share");
    let mut more = Box::pin(turns.take(1, 1));
    assert!(more.as_mut().now_or_never().is_none() && !turns.is_within_share(1, 1));
    assert_eq!(turns.usage(), Usage { units: 16, taken: 8, waiting: 1 });
    // What it waits for is its own, and keeps nobody.
    let second = turns.try_take(2, 6).unwrap();
    let mut large = Box::pin(turns.take(3, 4));
    assert!(large.as_mut().now_or_never().is_none());
    assert!(turns.try_take(4, 1).is_none(), "what is free is for the one who waits");
    drop(second);
    assert!(large.as_mut().now_or_never().unwrap().is_ok() && more.as_mut().now_or_never().is_none());
    drop(first);
    assert!(more.now_or_never().unwrap().is_ok());
}

#[tokio::test]
async fn where_all_wait_that_may_the_one_with_most_makes_room() {
    let turns = Turns::new(1, 1, 4);
    let held = turns.try_take(9, 1).unwrap();
    let mut many: Vec<_> = (0..4).map(|_| Box::pin(turns.take(1, 1))).collect();
    many.iter_mut().for_each(|it| assert!(it.as_mut().now_or_never().is_none()));
    assert!(turns.is_crowded(1) && !turns.is_crowded(2));
    assert_eq!(turns.take(1, 1).now_or_never().unwrap().unwrap_err(), Denied::Crowded);
    let mut other = Box::pin(turns.take(2, 1));
    assert!(other.as_mut().now_or_never().is_none());
    assert_eq!(many.pop().unwrap().now_or_never().unwrap().unwrap_err(), Denied::Crowded);
    many.pop();
    drop(held);
    assert!(many[0].as_mut().now_or_never().unwrap().is_ok());
    assert!(other.now_or_never().unwrap().is_ok());
    drop(many);
    let state = turns.lock();
    assert_eq!((state.free, state.waiting, state.callers.len()), (1, 0, 0));
}

#[tokio::test]
async fn nothing_is_given_after_the_close() {
    let turns = Turns::new(1, 1, 4);
    let held = turns.try_take(1, 1).unwrap();
    let mut waits = Box::pin(turns.take(2, 1));
    assert!(waits.as_mut().now_or_never().is_none());
    turns.close();
    assert_eq!(waits.now_or_never().unwrap().unwrap_err(), Denied::Closed);
    drop(held);
    assert_eq!(turns.take(1, 1).await.unwrap_err(), Denied::Closed);
}
