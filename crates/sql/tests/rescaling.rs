//! Groups and joins whose number of partitions changes: the key groups go from the old ones to the new ones, and what comes out is what
//! comes of a run that nobody disturbs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods, clippy::expect_used)]

mod common;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
use common::groups::{self, Line, QUERY, SESSIONS, by_the_book, sessions_by_the_book, told};
use common::{Running, Way, fine, lines, process, sides, stage_of};
use littoral_sql::{Change, Notice, Output, Partitions, Program, Rescaling, Stage};
use proptest::prelude::*;

/// A partition of a source: which flow spreads it, its number there, and its rows, in parts between which partitions change.
struct Source {
    flow: &'static str,
    partition: u32,
    parts: Vec<Vec<Line>>,
}

/// What came of a run.
#[derive(Debug, Default, PartialEq)]
struct Came {
    rows: Vec<String>,
    late: Vec<String>,
    rejected: Vec<String>,
}

impl Came {
    fn take(&mut self, output: &Output) {
        self.rows.extend(lines(output.rows.as_ref()));
        self.late.extend(lines(output.late.as_ref()));
        self.rejected.extend(output.rejected.iter().map(|(_, reason)| reason.clone()));
        self.rejected.extend(output.failed.iter().cloned());
    }

    fn sorted(mut self) -> Self {
        self.rows.sort();
        self.late.sort();
        self
    }
}

/// What waits for a partition of the groups: by who spreads rows, and behind these by the partition that hands over.
struct Waiting {
    queues: Vec<VecDeque<RecordBatch>>,
    sources: usize,
    change: Option<Change>,
    switched: BTreeSet<usize>,
    handed: usize,
}

impl Waiting {
    fn new(sources: usize) -> Self {
        let queues = vec![VecDeque::new(); sources + 16];
        Self { queues, sources, change: None, switched: BTreeSet::new(), handed: 0 }
    }

    /// Takes what may be taken now of a writer, as crate `flow` does.
    fn take(&mut self, writer: usize, partition: u32) -> Option<RecordBatch> {
        let notice = Notice::read(self.queues[writer].front()?);
        let all_have_switched = self.switched.len() == self.sources;
        if writer < self.sources && self.switched.contains(&writer) {
            return None;
        }
        if writer >= self.sources && (!all_have_switched || notice.unwrap().change != self.change.unwrap()) {
            return None;
        }
        if let Some(Notice { change, is_last, .. }) = notice {
            assert!(self.change.is_none_or(|ours| ours == change));
            self.change = Some(change);
            match writer < self.sources {
                true => drop(self.switched.insert(writer)),
                false => self.handed += usize::from(is_last),
            }
            let awaited = if partition < change.to { change.from as usize } else { 0 };
            if self.switched.len() == self.sources && self.handed == awaited {
                (self.change, self.handed) = (None, 0);
                self.switched.clear();
            }
        }
        self.queues[writer].pop_front()
    }
}

/// A flow that runs.
struct Flow<'p> {
    spreads: Vec<Running<'p>>,
    keyed: Vec<Running<'p>>,
    waiting: Vec<Waiting>,
    way: &'p Way,
    turn: usize,
    came: Came,
    handed_bytes: Vec<usize>,
}

impl<'p> Flow<'p> {
    fn new(spreads: Vec<Running<'p>>, way: &'p Way) -> Self {
        let came = Came::default();
        Self { spreads, keyed: Vec::new(), waiting: Vec::new(), way, turn: 0, came, handed_bytes: Vec::new() }
    }

    fn has_any(&self) -> bool {
        self.waiting.iter().any(|of| of.queues.iter().any(|queue| !queue.is_empty()))
    }

    /// Has a partition of the groups take one batch, in the order of the way; in the end it is each one's turn.
    fn step(&mut self) {
        let writers = self.waiting[0].queues.len();
        let places = self.waiting.len() * writers;
        let begin = self.way.order[self.turn % self.way.order.len()] * 7 + self.turn;
        self.turn += 1;
        let mut all = (0..places).map(|place| (begin + place) % places);
        let taken = all.find_map(|place| {
            let (partition, writer) = (place % self.waiting.len(), place / self.waiting.len());
            Some((partition, self.waiting[partition].take(writer, partition as u32)?))
        });
        let (partition, rows) = taken.expect("something can be taken");
        let output = self.keyed[partition].take(&rows);
        self.note(partition, &output);
        while self.keyed[partition].comes_first() {
            let output = self.keyed[partition].go_on();
            self.note(partition, &output);
        }
    }

    fn note(&mut self, partition: usize, output: &Output) {
        self.came.take(output);
        for (to, rows) in &output.handed {
            let columns = rows.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap());
            self.handed_bytes.push(columns.sum());
            let waiting = &mut self.waiting[*to as usize];
            waiting.queues[waiting.sources + partition].push_back(rows.clone());
        }
    }

    fn spread(&mut self, place: usize, rows: &RecordBatch) {
        let output = self.spreads[place].take(rows);
        self.came.take(&output);
        output.spread.into_iter().for_each(|(to, rows)| self.waiting[to as usize].queues[place].push_back(rows));
    }

    /// Goes on with another number of partitions, as soon as the first of the groups announces it; the rest of what was sent may wait.
    fn change(&mut self, program: &'p Program, (first, most): (usize, usize)) {
        self.grow(program, most);
        self.spreads.iter_mut().chain(&mut self.keyed).for_each(|of| of.goes_on_with(program, first as u32));
        let announced = loop {
            if self.keyed[0].has_more() {
                let output = self.keyed[0].go_on();
                self.note(0, &output);
                if let Some(announced) = output.announced {
                    break announced;
                }
            } else if self.has_any() {
                self.step();
            } else {
                // It is the same number.
                return;
            }
        };
        (0..self.spreads.len()).for_each(|place| self.spread(place, &announced));
    }

    fn grow(&mut self, program: &'p Program, most: usize) {
        for partition in self.keyed.len()..most {
            self.keyed.push(Running::new(program, "f", partition as u32, self.way.restarts));
            self.waiting.push(Waiting::new(self.spreads.len()));
        }
    }

    fn drain(&mut self) {
        while self.has_any() {
            self.step();
        }
        for partition in 0..self.keyed.len() {
            while self.keyed[partition].has_more() {
                let output = self.keyed[partition].go_on();
                self.note(partition, &output);
            }
        }
        assert!(!self.has_any());
    }
}

/// Runs a flow with so many partitions of its keys, one number after the other: a program for each, and a part of the rows of each source.
fn run(programs: &[(usize, Program)], sources: &[Source], way: &Way) -> Came {
    let (first, program) = &programs[0];
    let spreads = sources.iter().map(|of| Running::new(program, of.flow, of.partition, way.restarts)).collect();
    let mut flow = Flow::new(spreads, way);
    flow.grow(program, *first);
    for (turn, (_, program)) in programs.iter().enumerate() {
        if turn > 0 {
            let most = programs[..=turn].iter().map(|(count, _)| *count).max().unwrap();
            flow.change(program, (*first, most));
        }
        for (place, source) in sources.iter().enumerate() {
            let (mut left, mut sizes) = (source.parts[turn].as_slice(), way.sizes.iter().cycle());
            while !left.is_empty() {
                let (now, rest) = left.split_at(left.len().min(*sizes.next().unwrap()));
                left = rest;
                flow.spread(place, &sides::batch(now));
            }
        }
    }
    flow.drain();
    flow.came.sorted()
}

/// Cuts the rows of a partition at the places that are said, in hundredths of them.
fn cut(rows: &[Line], cuts: &[usize]) -> Vec<Vec<Line>> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| rows.len() * cut / 100).collect();
    places.sort_unstable();
    let ends = places.iter().copied().chain([rows.len()]);
    let begins = [0].into_iter().chain(places.iter().copied());
    begins.zip(ends).map(|(begin, end)| rows[begin..end].to_vec()).collect()
}

fn sources(flow: &'static str, all: &[Vec<Line>], cuts: &[Vec<usize>]) -> Vec<Source> {
    let source = |(partition, rows): (usize, &Vec<Line>)| {
        let parts = cut(rows, &cuts[partition % cuts.len()]);
        Source { flow, partition: partition as u32, parts }
    };
    all.iter().enumerate().map(source).collect()
}

/// Through three numbers of partitions, at places of its own for each partition of the sources.
fn rescalings() -> impl Strategy<Value = (Vec<usize>, Vec<Vec<usize>>)> {
    let cuts = proptest::collection::vec(proptest::collection::vec(0usize..=100, 2), 1..5);
    (proptest::collection::vec(1usize..=16, 3), cuts)
}

fn windows(count: usize, clauses: &str, query: &str, numbers: &[usize]) -> Vec<(usize, Program)> {
    let of = |number: &usize| {
        let clauses = format!("PARTITIONS {number} {clauses}");
        (*number, fine(&groups::statements(count as u32, &clauses, query)))
    };
    numbers.iter().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn windows_go_on_in_other_partitions(
        all in proptest::collection::vec(proptest::collection::vec((0u8..3, 0i64..90, -9i64..9), 1..50), 2..4),
        (numbers, cuts) in rescalings(),
        way in sides::a_way(),
        phases in groups::phases(),
    ) {
        let programs = windows(all.len(), &format!("LATE INTO too_late {phases}"), QUERY, &numbers);
        let came = run(&programs, &sources("f-by-key", &all, &cuts), &way);
        prop_assert_eq!(&came.rejected, &Vec::<String>::new());
        let undisturbed = run(&programs[..1], &sources("f-by-key", &all, &[vec![]]), &sides::whole());
        prop_assert_eq!(&came, &undisturbed);
        let mut book: Vec<String> = by_the_book(&all).into_iter().map(told).collect();
        book.sort();
        prop_assert_eq!(came.rows.len(), book.len());
        prop_assert!(came.rows.iter().zip(&book).all(|(ours, book)| ours.starts_with(book)), "{:?} {:?}", came.rows, book);
    }

    #[test]
    fn sessions_go_on_in_other_partitions(
        all in sides::onward(2..4),
        (numbers, cuts) in rescalings(),
        way in sides::a_way(),
    ) {
        let all: Vec<Vec<Line>> = all.iter().map(|rows| rows.iter().map(|(m, at, v)| (m % 3, *at, *v)).collect()).collect();
        let programs = windows(all.len(), "LATE INTO too_late", SESSIONS, &numbers);
        let came = run(&programs, &sources("f-by-key", &all, &cuts), &way);
        prop_assert_eq!(&came.rejected, &Vec::<String>::new());
        prop_assert_eq!(&came, &run(&programs[..1], &sources("f-by-key", &all, &[vec![]]), &sides::whole()));
        let book = sessions_by_the_book(&all);
        prop_assert_eq!(came.rows.len(), book.len());
        prop_assert!(came.rows.iter().zip(&book).all(|(ours, book)| ours.starts_with(book)), "{:?} {:?}", came.rows, book);
    }

    #[test]
    fn the_last_result_that_late_rows_change_is_the_same_in_other_partitions(
        all in proptest::collection::vec(proptest::collection::vec((0u8..3, 0i64..60, -9i64..9), 1..50), 2..4),
        (numbers, cuts) in rescalings(),
        way in sides::a_way(),
        phases in groups::phases(),
    ) {
        // All are past all windows in the end.
        let ended = |rows: &Vec<Line>| rows.iter().copied().chain([(0, 200, 0)]).collect();
        let all: Vec<Vec<Line>> = all.iter().map(ended).collect();
        let query = "SELECT m, window_start AS w, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY m, window_start";
        let clauses = format!("ALLOW LATENESS '15 s' LATE INTO too_late {phases}");
        let programs = windows(all.len(), &clauses, query, &numbers);
        let came = run(&programs, &sources("f-by-key", &all, &cuts), &way);
        prop_assert_eq!(&came.rejected, &Vec::<String>::new());
        let undisturbed = run(&programs[..1], &sources("f-by-key", &all, &[vec![]]), &sides::whole());
        // Rows are counted: the last result of a group has the most.
        let last = |rows: &[String]| {
            let of = |row: &String| {
                let (group, count) = row.split_once(r#","n":"#).unwrap();
                (group.to_owned(), count.trim_end_matches('}').parse::<u64>().unwrap())
            };
            let mut all: Vec<_> = rows.iter().map(of).collect();
            all.sort();
            all.into_iter().collect::<std::collections::BTreeMap<_, _>>()
        };
        prop_assert_eq!(last(&came.rows), last(&undisturbed.rows));
        prop_assert_eq!(came.late, undisturbed.late);
    }

    #[test]
    fn joins_go_on_in_other_partitions(
        left in sides::onward(1..4),
        right in sides::onward(1..4),
        on in prop::sample::select(vec![
            "JOIN r AS b ON a.m = b.m AND b.ts BETWEEN a.ts - INTERVAL '9 s' AND a.ts + INTERVAL '4 s'",
            "FULL JOIN r AS b ON a.m = b.m AND a.v + b.v <> 3 AND b.ts BETWEEN a.ts - INTERVAL '9 s' AND a.ts + INTERVAL '4 s'",
            "LEFT JOIN r FOR SYSTEM_TIME AS OF a.ts AS b ON a.m = b.m",
        ]),
        (numbers, cuts) in rescalings(),
        way in sides::a_way(),
    ) {
        let query = format!("SELECT a.m AS am, a.ts AS at, a.v AS av, b.m AS bm, b.ts AS bt, b.v AS bv FROM l AS a {on}");
        let of = |number: &usize| {
            let clauses = format!("PARTITIONS {number} LATE INTO too_late");
            (*number, fine(&sides::statements([left.len(), right.len()], &clauses, &query)))
        };
        let programs: Vec<(usize, Program)> = numbers.iter().map(of).collect();
        let both = |cuts: &[Vec<usize>]| {
            let mut both = sources("f-left", &left, cuts);
            both.extend(sources("f-right", &right, cuts));
            both
        };
        let came = run(&programs, &both(&cuts), &way);
        prop_assert_eq!(&came.rejected, &Vec::<String>::new());
        prop_assert_eq!(&came, &run(&programs[..1], &both(&[vec![]]), &sides::whole()));
    }
}

/// A flow of two partitions by key, of which both have heard of both of the source up to there, that is to have one.
struct Changing {
    spreads: [Stage; 2],
    keyed: [Stage; 2],
}

/// What a placement knows of a flow that had so many partitions at first.
fn known(first: u32) -> Option<Partitions> {
    Some(Partitions { first, most: 16 })
}

/// A stage with the state of another one.
fn again(program: &Program, flow: &str, (partition, first): (u32, u32), before: &mut Stage) -> Stage {
    let parts: Vec<u32> = (0..=u32::from(u16::MAX)).collect();
    let mut stage = stage_of(program, flow, partition).changing(known(first));
    let state = before.snapshot(&parts);
    let state: Vec<_> =
        state.iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(p, bytes)| (*p, &bytes[..])).collect();
    stage.restore(&state).unwrap();
    stage
}

/// The first of both has heard so many seconds of the source, and the second so many.
fn changing(programs: &[(usize, Program)], seconds: [i64; 2]) -> Changing {
    let [old, new] = [&programs[0].1, &programs[1].1];
    let sent = |partition: u32, seconds: i64| {
        let mut spread = stage_of(old, "f-by-key", partition);
        let rows: Vec<Line> = (0..seconds).map(|second| ((second % 5) as u8, second, 1)).collect();
        let sent = process(&mut spread, &sides::batch(&rows)).spread;
        (spread, sent)
    };
    let keyed = [0, 1].map(|to| {
        let mut keyed = stage_of(old, "f", to);
        for (_, sent) in [0, 1].map(|partition| sent(partition, seconds[to as usize])) {
            sent.iter().filter(|(lane, _)| *lane == to).for_each(|(_, rows)| drop(process(&mut keyed, rows)));
        }
        again(new, "f", (to, 2), &mut keyed)
    });
    let spreads = [0, 1].map(|partition| again(new, "f-by-key", (partition, 2), &mut sent(partition, seconds[0]).0));
    Changing { spreads, keyed }
}

impl Changing {
    /// Has all switch, and answers what the groups' partitions hand over to the one that goes on.
    fn hand_over(&mut self) -> [Vec<RecordBatch>; 2] {
        assert!(self.keyed[0].has_more() && !self.keyed[1].has_more());
        let announced = self.keyed[0].go_on().unwrap().announced.unwrap();
        assert!(!self.keyed[0].has_more());
        for spread in &mut self.spreads {
            let told = process(spread, &announced).spread;
            assert_eq!(told.len(), 2);
            for (to, rows) in told {
                assert!(!self.keyed[to as usize].comes_first());
                process(&mut self.keyed[to as usize], &rows);
            }
        }
        self.keyed.each_mut().map(|stage| {
            let mut handed = Vec::new();
            while stage.comes_first() {
                handed.extend(stage.go_on().unwrap().handed.into_iter().map(|(to, rows)| {
                    assert_eq!(to, 0);
                    rows
                }));
            }
            handed
        })
    }
}

fn refused(stage: &mut Stage, rows: &RecordBatch) -> String {
    if !Notice::is_of(rows.schema_ref()) {
        stage.open(rows.schema_ref()).unwrap();
    }
    stage.process(rows).unwrap_err().to_string()
}

#[test]
fn rows_wait_until_all_is_handed_over_also_for_who_goes_on_from_the_state() {
    let programs = windows(2, "AGGREGATE IN ONE PHASE", QUERY, &[2, 1]);
    let mut changing = changing(&programs, [9, 9]);
    let handed = changing.hand_over();
    let rows = process(&mut changing.spreads[0], &sides::batch(&[(0, 9, 1)])).spread;
    let [(0, rows)] = rows.as_slice() else { panic!("it goes to one partition: {rows:?}") };
    let [new, old] = &mut changing.keyed;
    assert!(refused(new, rows).contains("before all was handed over"));
    handed[0].iter().for_each(|rows| drop(process(new, rows)));
    assert!(new.rescaling().is_waited_for && new.rescaling().done.is_none());
    assert!(refused(new, rows).contains("before all was handed over"));
    // What is said twice is not taken twice.
    assert!(refused(new, &handed[0][0]).contains("has done so already"));
    let mut new = again(&programs[1].1, "f", (0, 2), new);
    assert!(new.rescaling().is_waited_for);
    handed[1].iter().for_each(|rows| drop(process(&mut new, rows)));
    let change = Change { generation: 1, from: 2, to: 1 };
    assert_eq!(new.rescaling(), Rescaling { done: Some(change), is_waited_for: false, settled: Some(1) });
    // Who has nothing any more is done with it, too.
    assert_eq!(old.rescaling().done, Some(change));
    // What it has is not taken again, whoever hands it over.
    assert!(refused(&mut new, &handed[0][0]).contains("not under way"));
    process(&mut new, rows);
}

#[test]
fn who_has_not_heard_the_same_of_the_source_is_not_taken_over_from() {
    let mut changing = changing(&windows(2, "", QUERY, &[2, 1]), [9, 8]);
    let handed = changing.hand_over();
    let new = &mut changing.keyed[0];
    handed[0].iter().for_each(|rows| drop(process(new, rows)));
    assert!(refused(new, &handed[1][handed[1].len() - 1]).contains("have not heard the same"));
}

#[test]
fn a_change_that_is_not_the_next_one_is_refused() {
    let programs = windows(2, "", QUERY, &[2, 1]);
    let mut changing = changing(&programs, [9, 9]);
    let announced = changing.keyed[0].go_on().unwrap().announced.unwrap();
    let spread = &mut changing.spreads[0];
    let told = process(spread, &announced).spread;
    assert!(refused(spread, &announced).contains("give the flow another name"));
    let keyed = &mut changing.keyed[1];
    process(keyed, &told[1].1);
    assert!(refused(keyed, &told[1].1).contains("has switched twice"));
    // Nobody who has another number of partitions takes it for the next one.
    let mut other = stage_of(&programs[1].1, "f-by-key", 0).changing(known(3));
    assert!(refused(&mut other, &announced).contains("give the flow another name"));
}

#[test]
fn who_does_not_know_that_the_number_may_change_takes_no_notice() {
    let programs = windows(2, "", QUERY, &[2, 1]);
    let mut changing = changing(&programs, [9, 9]);
    let announced = changing.keyed[0].go_on().unwrap().announced.unwrap();
    let told = process(&mut changing.spreads[0], &announced).spread;
    for known in [None, Some(Partitions { first: 2, most: 1 })] {
        for (flow, notice) in [("f-by-key", &announced), ("f", &told[0].1)] {
            let error = refused(&mut stage_of(&programs[1].1, flow, 0).changing(known), notice);
            assert!(error.contains("does not know of it yet"), "{error}");
        }
    }
}

#[test]
fn where_fewer_partitions_are_deployed_than_there_are_nothing_is_spread_or_announced() {
    let programs = windows(1, "", QUERY, &[1, 2]);
    let fewer = Some(Partitions { first: 1, most: 1 });
    assert!(!stage_of(&programs[1].1, "f", 0).changing(fewer).has_more());
    let announced = stage_of(&programs[1].1, "f", 0).changing(known(1)).go_on().unwrap().announced.unwrap();
    let mut spread = stage_of(&programs[1].1, "f-by-key", 0).changing(known(1));
    process(&mut spread, &announced);
    assert_eq!(process(&mut spread, &sides::batch(&[(0, 1, 1)])).spread.len(), 2);
    let mut spread = again(&programs[1].1, "f-by-key", (0, 1), &mut spread).changing(fewer);
    assert!(refused(&mut spread, &sides::batch(&[(0, 2, 1)])).contains("deploy it again"));
}

#[test]
fn another_query_takes_nothing_over() {
    let programs = windows(2, "", QUERY, &[2, 1]);
    let mut one = changing(&programs, [9, 9]);
    let mut other = changing(&windows(2, "", SESSIONS, &[2, 1]), [9, 9]);
    let (handed, _) = (one.hand_over(), other.hand_over());
    assert!(refused(&mut other.keyed[0], &handed[0][0]).contains("give the flow another name"));
    let plain = fine("CREATE STREAM s; CREATE FLOW f AS SELECT key FROM s");
    assert!(stage_of(&plain, "f", 0).changing(known(2)).process(&handed[0][0]).is_err());
    // Nor does one take what no partition can have.
    let rows = &handed[0][0];
    let numbers: ArrayRef = Arc::new(UInt32Array::from(vec![128; rows.num_rows()]));
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns());
    let columns = columns.map(|(of, column)| (of.name(), if of.name() == "part" { &numbers } else { column }.clone()));
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let error = refused(&mut one.keyed[0], &rows);
    assert!(error.contains("no key group 128"), "{error}");
}

#[test]
fn what_is_to_be_put_out_is_so_before_groups_are_handed_over() {
    let query = "SELECT v, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY v, window_start";
    let programs = windows(2, "AGGREGATE IN ONE PHASE", query, &[1, 2]);
    let mut keyed = stage_of(&programs[0].1, "f", 0);
    let mut spreads = [0, 1].map(|partition| stage_of(&programs[0].1, "f-by-key", partition));
    let mut take = |of: usize, rows: &[Line]| {
        let spread = process(&mut spreads[of], &sides::batch(rows)).spread;
        spread.iter().map(|(_, rows)| lines(process(&mut keyed, rows).rows.as_ref()).len()).sum::<usize>()
    };
    let many: Vec<Line> = (0..10_000).map(|v| (0, 1, v)).collect();
    assert_eq!(take(0, &many) + take(0, &[(0, 30, 1)]), 0);
    let first = take(1, &[(0, 30, 1)]);
    assert!(keyed.has_more() && first < 10_000, "{first}");
    // It goes on with another number, and everybody switches at once.
    let mut keyed = again(&programs[1].1, "f", (0, 1), &mut keyed);
    let announced = keyed.go_on().unwrap().announced.unwrap();
    for spread in 0..2 {
        let mut spread = again(&programs[1].1, "f-by-key", (spread, 1), &mut spreads[spread as usize]);
        process(&mut keyed, &process(&mut spread, &announced).spread[0].1);
    }
    let (mut all, mut handed) = (first, Vec::new());
    while keyed.comes_first() {
        let output = keyed.go_on().unwrap();
        assert!(output.handed.is_empty() || output.rows.is_none());
        all += lines(output.rows.as_ref()).len();
        handed.extend(output.handed);
    }
    assert_eq!((all, handed.len()), (10_000, 2));
}

#[test]
fn a_large_key_group_is_handed_over_in_pieces_that_fit_into_commits() {
    let query = "SELECT x, count(*) AS n FROM HOP(s, ts, INTERVAL '1 s', INTERVAL '500 s') GROUP BY x, window_start";
    let text = |number: u32| {
        format!(
            "CREATE STREAM s (x text, ts timestamp, WATERMARK FOR ts AS ts) PARTITIONS 2; CREATE FLOW f PARTITIONS {number} AS {query}"
        )
    };
    let (one, two) = (fine(&text(1)), fine(&text(2)));
    let way = sides::whole();
    let spreads = [0, 1].map(|partition| Running::new(&one, "f-by-key", partition, false)).into();
    let mut flow = Flow::new(spreads, &way);
    flow.grow(&one, 1);
    let long = "x".repeat(10_000);
    let record = |x: &str, second: u32| format!(r#"{{"x":"{x}","ts":"1970-01-01T00:00:{second:02}Z"}}"#);
    for partition in 0..2 {
        flow.spread(partition, &common::records(&[&record(&long, 1), &record("", 2)]));
    }
    flow.drain();
    // However it is written.
    let kept = |flow: &Flow<'_>| {
        let mut stage = stage_of(&one, "f", 0);
        let state = flow.keyed[0].state.iter().filter(|(part, _)| **part < u32::from(u16::MAX));
        stage.restore(&state.map(|(part, state)| (*part, state.as_slice())).collect::<Vec<_>>()).unwrap();
        let whole = stage.snapshot(&(0..1_000).collect::<Vec<_>>());
        whole.into_iter().filter(|(_, state)| !state.is_empty()).collect::<Vec<_>>()
    };
    let before = kept(&flow);
    assert!(before.len() > 4);
    flow.change(&two, (1, 2));
    flow.drain();
    let bytes = std::mem::take(&mut flow.handed_bytes);
    assert!(bytes.iter().sum::<usize>() > 8 << 20 && bytes.iter().all(|bytes| *bytes < 3 << 20), "{bytes:?}");
    assert!(kept(&flow).len() < before.len());
    // All of it is there, and comes together again.
    flow.change(&one, (1, 2));
    flow.drain();
    assert!(kept(&flow) == before);
}

#[test]
fn who_was_furthest_says_which_windows_are_over() {
    let rows = furthest("", 1);
    // Only the window of the first rows was over for the one that had any.
    assert_eq!((rows.0.len(), rows.1.len()), (1, 1), "{rows:?}");
    assert!(rows.1[0].contains("T00:00:50Z"), "{rows:?}");
    // What is kept for late rows is not put out once more, neither by who was behind nor of who was ahead.
    assert_eq!(furthest(" ALLOW LATENESS '1000 s'", 1), rows);
    let (before, after) = furthest(" ALLOW LATENESS '1000 s'", 0);
    assert!(before.iter().any(|row| row.contains("T00:00:00Z")) && !before.is_empty(), "{before:?}");
    assert!(after.iter().all(|row| !before.contains(row)), "{before:?} {after:?}");
}

/// What came out before one partition took over from two, and by that, where all rows are of one of these.
fn furthest(lateness: &str, of: u32) -> (Vec<String>, Vec<String>) {
    // The first partition of the source falls idle, and comes back: one of the groups' partitions hears that of it before the second
    // has gone on, another one after that, and closes windows which the first does not.
    let query =
        "SELECT m, window_start AS w, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 s') GROUP BY m, window_start";
    let programs = windows(2, &format!("IDLE AFTER '30 s'{lateness}"), query, &[2, 1]);
    let mut spreads = [0, 1].map(|partition| stage_of(&programs[0].1, "f-by-key", partition));
    let spread = |stage: &mut Stage, rows: &[Line]| process(stage, &sides::batch(rows)).spread;
    let lane = |m: u8| {
        let rows = spread(&mut stage_of(&programs[0].1, "f-by-key", 0), &[(m, 1, 1)]);
        rows.iter().find(|(_, rows)| !lines(Some(rows))[0].contains(r#""moment":null"#)).unwrap().0
    };
    let behind = (0..9).map(lane).collect::<Vec<_>>();
    let key = behind.iter().position(|lane| *lane == of).unwrap() as u8;
    let first = spread(&mut spreads[0], &[(key, 1, 1)]);
    let second = spread(&mut spreads[1], &[(key, 1, 1)]);
    let idle = spreads[0].idle().unwrap().spread;
    let back = spread(&mut spreads[0], &[(key, 50, 1)]);
    let on = spread(&mut spreads[1], &[(key, 100, 1)]);
    let mut keyed = [0, 1].map(|partition| stage_of(&programs[0].1, "f", partition));
    let orders = [[&first, &second, &idle, &on, &back], [&first, &second, &idle, &back, &on]];
    let mut rows = Vec::new();
    for (partition, order) in (0..).zip(orders) {
        for (_, batch) in order.iter().flat_map(|of| of.iter()).filter(|(to, _)| *to == partition) {
            rows.extend(lines(process(&mut keyed[partition as usize], batch).rows.as_ref()));
        }
    }
    let before = std::mem::take(&mut rows);
    let [mut one, mut other] = keyed;
    let keyed = [again(&programs[1].1, "f", (0, 2), &mut one), again(&programs[1].1, "f", (1, 2), &mut other)];
    let [mut one, mut other] = spreads;
    let spreads =
        [again(&programs[1].1, "f-by-key", (0, 2), &mut one), again(&programs[1].1, "f-by-key", (1, 2), &mut other)];
    let mut changing = Changing { spreads, keyed };
    let handed = changing.hand_over();
    let [new, _] = &mut changing.keyed;
    handed.iter().flatten().for_each(|rows| drop(process(new, rows)));
    while new.has_more() {
        rows.extend(lines(new.go_on().unwrap().rows.as_ref()));
    }
    (before, rows)
}
