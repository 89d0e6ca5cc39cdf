//! The store against a plain list, through appends, confirmations, reopens and kills.

use std::collections::BTreeMap;

use hub_bridge::backlog::{Backlog, Mark};
use hub_bridge::identity::Epoch;
use proptest::prelude::*;

use super::fixture::*;
use crate::store::Store;

#[derive(Debug, Clone)]
enum Step {
    Append { count: u64, bytes: usize },
    Confirm { from: u64, count: u64 },
    Reopen,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..80, prop_oneof![Just(60usize), Just(200), Just(3_000), Just(20_000)])
            .prop_map(|(count, bytes)| Step::Append { count: if bytes > 1000 { count % 5 + 1 } else { count }, bytes }),
        4 => (0u64..1000, 1u64..200).prop_map(|(from, count)| Step::Confirm { from, count }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_a_list(steps in prop::collection::vec(step(), 1..25), keep in any::<bool>()) {
        let mut dir = tempfile::tempdir().unwrap();
        let with = |dir: &std::path::Path| {
            let mut s = settings(dir);
            s.segment_bytes = 32 * 1024;
            if !keep { s.keep_forwarded = std::time::Duration::ZERO; }
            s
        };
        let mut store: Store = open(&with(dir.path())).0;
        let mut model: BTreeMap<(Epoch, u64), u64> = BTreeMap::new();
        let mut n = 0;
        for step in steps {
            let epoch = current(&store);
            match step {
                Step::Append { count, bytes } => {
                    let committed = append(&store, (n..n + count).map(|n| reading(n, bytes)).collect()).unwrap();
                    prop_assert_eq!(committed.range.count(), count);
                    for (sequence, n) in (committed.range.first.0..).zip(n..n + count) {
                        prop_assert!(model.insert((committed.epoch, sequence), n).is_none());
                    }
                    n += count;
                }
                Step::Confirm { from, count } => {
                    let next = store.stats().next_sequence.0;
                    if next > 1 {
                        let first = from % (next - 1) + 1;
                        let last = (first + count - 1).min(next - 1);
                        store.confirm(epoch, Mark::Forwarded, &[range(first, last)]).unwrap();
                        model.retain(|(e, s), _| *e != epoch || *s < first || *s > last);
                    }
                }
                Step::Reopen => {
                    drop(store);
                    let (again, report) = open(&with(dir.path()));
                    prop_assert!(report.began.is_none(), "{:?}", report);
                    store = again;
                }
                Step::Kill => {
                    wait_until("the marks are written", || !store.shared().index.lock().dirty);
                    let copy = tempfile::tempdir().unwrap();
                    snapshot(&store, copy.path());
                    drop(store);
                    dir = copy;
                    let (again, report) = open(&with(dir.path()));
                    prop_assert!(report.began.is_none(), "{:?}", report);
                    store = again;
                }
            }
            let expected: Vec<u64> = model.values().copied().collect();
            prop_assert_eq!(waiting_numbers(&store), expected);
            prop_assert_eq!(store.stats().readings, model.len() as u64);
            prop_assert_eq!(store.stats().lost_readings, 0);
        }
    }
}
