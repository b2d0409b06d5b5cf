//! What becomes of pairs: whether their rows join, and what is computed of them.

use std::collections::BTreeMap;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::take::take;

use super::{At, Joined, Joins, Kept, Step, one, one_mut};
use crate::cast::timestamp_text;
use crate::eval::Evaluator;
use crate::expr::Expr;
use crate::plan::Joining;
use crate::stage::{RESULT_BYTES_MAX, StageError, batch, filtered, projected};
use crate::user_function::{Calls, Functions, computed};
use crate::value::{Cell, ColumnBuilder};

/// How many pairs are computed at once, and the most bytes of their rows.
const CHUNK_MAX: usize = 4_096;
const CHUNK_BYTES_MAX: usize = 16 << 20;

/// A pair, or a row alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The row that came last of them, or ended the interval of one, by where it was as it arrived.
    row: usize,
    sides: [Option<At>; 2],
}

impl Found {
    pub(super) fn pair(row: usize, side: usize, at: At, partner: At) -> Self {
        let sides = if side == 0 { [Some(at), Some(partner)] } else { [Some(partner), Some(at)] };
        Self { row, sides }
    }

    pub(super) fn alone(row: usize, side: usize, at: At) -> Self {
        Self { row, sides: if side == 0 { [Some(at), None] } else { [None, Some(at)] } }
    }

    fn is_pair(&self) -> bool {
        self.sides.iter().all(Option::is_some)
    }

    /// What failed, and why: the row alone does not say it.
    fn told(&self, reason: &str) -> String {
        match self.sides {
            [Some((left, _)), Some((right, _))] => {
                format!("the pair of its key of {} and {}: {reason}", timestamp_text(left), timestamp_text(right))
            }
            [Some((time_us, _)), None] | [None, Some((time_us, _))] => {
                format!("the row of {}, for which no other came: {reason}", timestamp_text(time_us))
            }
            [None, None] => reason.to_owned(),
        }
    }
}

/// Rows, and why something failed there.
type Failed = Vec<(usize, String)>;

impl Joins {
    /// Puts out what was found.
    pub(super) async fn put_out(
        &mut self,
        (joining, result): (&Joining, &SchemaRef),
        step: &mut Step,
        joined: &mut Joined,
        functions: &mut dyn Functions,
    ) -> Result<(), StageError> {
        let mut found = std::mem::take(&mut step.found);
        if joining.on.is_some() || joining.is_outer(0) || joining.is_outer(1) {
            let pairs: Vec<Found> = found.iter().copied().filter(Found::is_pair).collect();
            let joins = self.joining(joining, &pairs, &mut joined.failed)?;
            // Where that failed nobody knows that there was none.
            for (pair, _) in pairs.iter().zip(&joins).filter(|(_, joins)| **joins != Some(false)) {
                self.note(joining, pair, step);
            }
            let mut joins = joins.into_iter();
            // A row was alone only if none of this batch joins it either.
            found.retain(|of| if of.is_pair() { joins.next().flatten() == Some(true) } else { !self.is_matched(of) });
        }
        let (mut done, mut bytes) = (Vec::new(), told_bytes(&joined.failed));
        let mut chunks = self.chunks(&found);
        chunks.reverse();
        while let Some(chunk) = chunks.pop() {
            match computed(functions, |calls| self.results(joining, result, chunk, calls)).await {
                Ok((rows, failed)) => {
                    bytes += rows.as_ref().map_or(0, RecordBatch::get_array_memory_size) + told_bytes(&failed);
                    done.extend(rows);
                    joined.failed.extend(failed);
                }
                Err(error @ StageError::Function(_)) => return Err(error),
                Err(_) if chunk.len() > 1 => chunks.extend(halves(chunk)),
                Err(error) => return Err(error),
            }
            if bytes > RESULT_BYTES_MAX {
                return Err(too_much(&found).into());
            }
        }
        joined.rows = match done.as_slice() {
            [] | [_] => done.pop(),
            parts => Some(concat_batches(result, parts)?),
        };
        Ok(())
    }

    /// Whether the rows of pairs join; nothing where that failed.
    fn joining(
        &self,
        joining: &Joining,
        pairs: &[Found],
        failed: &mut Failed,
    ) -> Result<Vec<Option<bool>>, ArrowError> {
        let Some(on) = &joining.on else { return Ok(vec![Some(true); pairs.len()]) };
        let mut joins = Vec::with_capacity(pairs.len());
        let (mut bytes, mut chunks) = (0, self.chunks(pairs));
        chunks.reverse();
        while let Some(chunk) = chunks.pop() {
            let (holds, faults) = match self.holding(joining, on, chunk) {
                Err(_) if chunk.len() > 1 => {
                    chunks.extend(halves(chunk));
                    continue;
                }
                held => held?,
            };
            joins.extend((0..chunk.len()).map(|row| (!faults.contains_key(&row)).then(|| holds.value(row))));
            let told = |(row, reason): (usize, String)| chunk.get(row).map(|pair| (pair.row, pair.told(&reason)));
            let told: Failed = faults.into_iter().filter_map(told).collect();
            bytes += told_bytes(&told);
            failed.extend(told);
            if bytes > RESULT_BYTES_MAX {
                return Err(too_much(pairs));
            }
        }
        Ok(joins)
    }

    /// Of which pairs a condition holds, and of which it failed.
    fn holding(
        &self,
        joining: &Joining,
        on: &Expr,
        pairs: &[Found],
    ) -> Result<(BooleanBuffer, BTreeMap<usize, String>), ArrowError> {
        let columns = self.columns(joining, pairs)?;
        let mut evaluator = Evaluator::new(&columns, pairs.len());
        Ok((evaluator.holds(on)?, evaluator.faults))
    }

    /// So many at a time that their rows fit.
    fn chunks<'f>(&self, found: &'f [Found]) -> Vec<&'f [Found]> {
        let (mut chunks, mut left) = (Vec::new(), found);
        while !left.is_empty() {
            let mut bytes = 0;
            let fitting = left.iter().take(CHUNK_MAX).take_while(|of| {
                let of = of.sides.iter().enumerate().filter_map(|(side, at)| self.kept(side, at.as_ref()?));
                bytes += of.map(Kept::bytes).sum::<usize>();
                bytes <= CHUNK_BYTES_MAX
            });
            let (now, rest) = left.split_at(fitting.count().max(1));
            chunks.push(now);
            left = rest;
        }
        chunks
    }

    fn results(
        &self,
        joining: &Joining,
        result: &SchemaRef,
        found: &[Found],
        calls: &mut Calls,
    ) -> Result<(Option<RecordBatch>, Failed), ArrowError> {
        let columns = self.columns(joining, found)?;
        let mut evaluator = Evaluator::new(&columns, found.len()).calling(calls);
        let holds = joining.filter.as_ref().map(|filter| evaluator.holds(filter)).transpose()?;
        let mut faults = evaluator.faults;
        // What WHERE does not pass is not computed either.
        let passes = |row| holds.as_ref().is_none_or(|holds| holds.value(row)) && !faults.contains_key(&row);
        let passed = BooleanArray::new(BooleanBuffer::collect_bool(found.len(), passes), None);
        let passing: Vec<usize> = passed.values().set_indices().collect();
        let columns = filtered(&columns, &passed)?;
        let (projected, good, failed) = projected(&joining.project, (&columns, passing.len()), calls)?;
        faults.extend(failed.into_iter().filter_map(|(row, reason)| Some((*passing.get(row)?, reason))));
        let told = |(row, reason): (usize, String)| found.get(row).map(|of| (of.row, of.told(&reason)));
        Ok((batch(result, projected, passing.len(), good)?, faults.into_iter().filter_map(told).collect()))
    }

    /// The columns of pairs: those of the left side, then those of the right one.
    fn columns(&self, joining: &Joining, found: &[Found]) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut columns = Vec::new();
        for side in [0, 1] {
            // Each row once, however many pairs it makes.
            let mut places: BTreeMap<At, u32> = BTreeMap::new();
            for at in found.iter().filter_map(|of| *one(&of.sides, side)) {
                places.insert(at, 0);
            }
            let types = &one(&joining.sides, side).columns;
            let mut builders: Vec<ColumnBuilder> =
                types.iter().map(|(_, ty)| ColumnBuilder::new(*ty, places.len())).collect();
            for (number, (at, place)) in (0..).zip(&mut places) {
                *place = number;
                let values = self.kept(side, at).map(|kept| postcard::from_bytes(&kept.values));
                let values: Vec<Option<Cell<'static>>> = values.transpose().map_err(unread)?.unwrap_or_default();
                let values = values.into_iter().chain(std::iter::repeat(None));
                builders.iter_mut().zip(values).for_each(|(builder, value)| builder.push(value));
            }
            let places = found.iter().map(|of| one(&of.sides, side).and_then(|at| places.get(&at).copied()));
            let places = UInt32Array::from(places.collect::<Vec<_>>());
            for builder in builders {
                columns.push(take(&builder.finish(), &places, None)?);
            }
        }
        Ok(columns)
    }

    fn kept(&self, side: usize, at: &At) -> Option<&Kept> {
        let own = one(&self.sides, side);
        own.rows.get(at).or_else(|| own.gone.get(at))
    }

    /// Notes that the rows of a pair of outer sides were joined.
    fn note(&mut self, joining: &Joining, pair: &Found, step: &mut Step) {
        for (side, at) in pair.sides.iter().enumerate().filter(|(side, _)| joining.is_outer(*side)) {
            let (own, Some(at)) = (one_mut(&mut self.sides, side), at) else { continue };
            if let Some(kept) = own.rows.get_mut(at).filter(|kept| !kept.is_matched) {
                kept.is_matched = true;
                step.dirty.insert(kept.part);
            } else if let Some(kept) = own.gone.get_mut(at) {
                kept.is_matched = true;
            }
        }
    }

    fn is_matched(&self, alone: &Found) -> bool {
        let kept = alone.sides.iter().enumerate().filter_map(|(side, at)| self.kept(side, at.as_ref()?));
        kept.into_iter().any(|kept| kept.is_matched)
    }
}

/// The same in two, the second part first.
fn halves(found: &[Found]) -> [&[Found]; 2] {
    let (first, second) = found.split_at(found.len() / 2);
    [second, first]
}

fn told_bytes(failed: &Failed) -> usize {
    failed.iter().map(|told| size_of_val(told) + told.1.len()).sum()
}

fn too_much(found: &[Found]) -> ArrowError {
    ArrowError::ComputeError(format!("what comes of {} pairs has more than 256 MiB", found.len()))
}

fn unread(error: postcard::Error) -> ArrowError {
    ArrowError::ComputeError(format!("a row that was kept cannot be read: {error}"))
}
