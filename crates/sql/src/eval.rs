//! Evaluates expressions over the rows of a batch: with Arrow's kernels, and with loops where there is none.
//!
//! A row on which an expression fails (a division by zero, a text that is no number) has a fault and the value null; the
//! others are not touched by it. Whether an operand counts for a row is told by a mask: `CASE WHEN x <> 0 THEN 1 / x END`
//! has no fault where `x` is 0.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_arith::{boolean, numeric};
use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array as _, ArrayRef, BooleanArray, UInt32Array};
use arrow_buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow_ord::cmp;
use arrow_schema::ArrowError;

use crate::cast::cast;
use crate::expr::{Comparison, Expr, Literal, Operation, Test};
use crate::function::Function;
use crate::stage::filtered;
use crate::types::Type;
use crate::user_function::{Call, Calls, UserFunction};
use crate::value::{Cell, Value, bounded, column, known, micros};

/// The rows for which a value counts; none for all.
type Active = Option<BooleanBuffer>;

/// Evaluates expressions over the same rows.
pub(crate) struct Evaluator<'a> {
    columns: &'a [ArrayRef],
    rows: usize,
    /// The first fault of each row that has one.
    pub(crate) faults: BTreeMap<usize, String>,
    /// Where functions of the app may be called.
    calls: Option<&'a mut Calls>,
}

impl<'a> Evaluator<'a> {
    pub(crate) fn new(columns: &'a [ArrayRef], rows: usize) -> Self {
        Self { columns, rows, faults: BTreeMap::new(), calls: None }
    }

    /// The same where functions of the app may be called.
    pub(crate) fn calling(self, calls: &'a mut Calls) -> Self {
        Self { calls: Some(calls), ..self }
    }

    /// The values of an expression, one for each row.
    ///
    /// # Errors
    /// When the texts in them are too large for one batch.
    pub(crate) fn column(&mut self, expr: &Expr) -> Result<ArrayRef, ArrowError> {
        self.column_where(expr, &None)
    }

    /// The values of an expression, of which only those at the given rows count.
    ///
    /// # Errors
    /// When the texts in them are too large for one batch.
    pub(crate) fn column_where(&mut self, expr: &Expr, rows: &Option<BooleanBuffer>) -> Result<ArrayRef, ArrowError> {
        self.value(expr, rows)?.expand(self.rows)
    }

    /// The rows for which a condition is true.
    pub(crate) fn holds(&mut self, condition: &Expr) -> Result<BooleanBuffer, ArrowError> {
        let value = self.value(condition, &None)?;
        Ok(self.truth(&value))
    }

    fn value(&mut self, expr: &Expr, active: &Active) -> Result<Value, ArrowError> {
        match expr {
            Expr::Column(place) => match self.columns.get(*place) {
                Some(array) => Ok(Value::column(array.clone())),
                None => Err(ArrowError::InvalidArgumentError(format!("there is no column {place}"))),
            },
            Expr::Literal(literal, ty) => Ok(Value::literal(literal, *ty)),
            Expr::Not(of) => {
                let of = self.value(of, active)?;
                Ok(same(&of, boolean::not(of.booleans())?))
            }
            Expr::And(left, right) => self.both(left, right, active),
            Expr::Or(left, right) => self.either(left, right, active),
            Expr::Compare(comparison, left, right) => {
                let (left, right) = (self.value(left, active)?, self.value(right, active)?);
                self.compare(*comparison, &left, &right)
            }
            Expr::Test(test, of) => {
                let of = self.value(of, active)?;
                Ok(same(&of, tested(*test, &of)))
            }
            Expr::Arithmetic(operation, left, right, ty) => {
                let (left, right) = (self.value(left, active)?, self.value(right, active)?);
                self.arithmetic(*operation, &left, &right, *ty, active)
            }
            Expr::Negate(of) => self.negate(of, active),
            Expr::Between([of, low, high]) => self.between(of, low, high, active),
            Expr::In(of, list) => self.is_in(of, list, active),
            Expr::Case { operand, branches, otherwise } => self.case(operand.as_deref(), branches, otherwise, active),
            Expr::Coalesce(of) => self.coalesce(of, active),
            Expr::NullIf(left, right) => self.null_if(left, right, active),
            Expr::Like { text, pattern, negated, any_case } => self.like(text, pattern, (*negated, *any_case), active),
            Expr::Cast(of, to) => self.cast(of, *to, active),
            Expr::Call(function, arguments) => self.call(function, arguments, active),
            Expr::User(function, arguments) => self.user_function(function, arguments, active),
        }
    }

    // Each kind that needs room of its own is a function of its own: `value` stands on the stack for every level.

    fn null_if(&mut self, left: &Expr, right: &Expr, active: &Active) -> Result<Value, ArrowError> {
        let (left, right) = (self.value(left, active)?, self.value(right, active)?);
        let equal = Value::column(self.compare(Comparison::Equal, &left, &right)?.expand(self.rows)?);
        let array = left.expand(self.rows)?;
        Ok(Value::column(arrow_select::nullif::nullif(&array, equal.booleans())?))
    }

    fn like(
        &mut self,
        text: &Expr,
        pattern: &Expr,
        (negated, any_case): (bool, bool),
        active: &Active,
    ) -> Result<Value, ArrowError> {
        use arrow_string::like::{ilike, like, nilike, nlike};
        let (text, pattern) = (self.value(text, active)?, self.value(pattern, active)?);
        let is_scalar = text.is_scalar && pattern.is_scalar;
        let kernel = match (negated, any_case) {
            (false, false) => like,
            (true, false) => nlike,
            (false, true) => ilike,
            (true, true) => nilike,
        };
        Ok(Value { array: Arc::new(kernel(&text, &pattern)?), is_scalar })
    }

    fn cast(&mut self, of: &Expr, to: Type, active: &Active) -> Result<Value, ArrowError> {
        let of = self.value(of, active)?;
        // What the checker puts before a whole number among others cannot fail.
        if let (Some(whole), Type::Double) = (of.array.as_primitive_opt::<Int64Type>(), to) {
            let doubles = whole.unary::<_, Float64Type>(|value| value as f64);
            return Ok(Value { array: Arc::new(doubles), is_scalar: of.is_scalar });
        }
        self.each(&[of], to, active, |cells| match cells {
            [Some(cell)] => cast(cell, to).map(Some),
            _ => Ok(None),
        })
    }

    fn call(&mut self, function: &'static Function, arguments: &[Expr], active: &Active) -> Result<Value, ArrowError> {
        let arguments = arguments.iter().map(|argument| self.value(argument, active));
        let arguments: Vec<Value> = arguments.collect::<Result<_, _>>()?;
        self.each(&arguments, function.result, active, |cells| {
            if function.is_strict && cells.iter().any(Option::is_none) {
                return Ok(None);
            }
            (function.call)(cells)
        })
    }

    /// A function of the app is given the rows that count and on which nothing has failed so far.
    fn user_function(
        &mut self,
        function: &Arc<UserFunction>,
        arguments: &[Expr],
        active: &Active,
    ) -> Result<Value, ArrowError> {
        let arguments = arguments.iter().map(|argument| self.value(argument, active)?.expand(self.rows));
        let arguments: Vec<ArrayRef> = arguments.collect::<Result<_, ArrowError>>()?;
        let counts =
            |row: usize| active.as_ref().is_none_or(|active| active.value(row)) && !self.faults.contains_key(&row);
        let asked = BooleanArray::new(BooleanBuffer::collect_bool(self.rows, counts), None);
        let rows = asked.true_count();
        if rows == 0 {
            return Ok(Value::literal(&Literal::Null, function.result));
        }
        let are_all = rows == self.rows;
        let arguments = if are_all { arguments } else { filtered(&arguments, &asked)? };
        let Some(calls) = &mut self.calls else {
            return Err(ArrowError::InvalidArgumentError("functions of the app are not called here".to_owned()));
        };
        let called = calls.meet(Call { function: Arc::clone(function), arguments, rows })?;
        let mut places = vec![None; self.rows];
        for (place, row) in (0..).zip(asked.values().set_indices()) {
            if let Some(reason) = called.faults.get(&place) {
                self.fault(row, false, active, format!("{}: {reason}", function.name));
            }
            if let Some(of_row) = places.get_mut(row) {
                *of_row = u32::try_from(place).ok();
            }
        }
        let of_all = |values: &ArrayRef| arrow_select::take::take(values, &UInt32Array::from(places), None);
        let value = Value::column(if are_all { called.values } else { of_all(&called.values)? });
        bounded(value.text_bytes(), self.rows)?;
        Ok(value)
    }

    /// The second operand counts where the first is not false.
    fn both(&mut self, left: &Expr, right: &Expr, active: &Active) -> Result<Value, ArrowError> {
        let left = self.value(left, active)?;
        let false_at = self.bits(&left, |value| value == Some(false));
        let right = self.value(right, &Some(and(active, &!&false_at)))?;
        self.kleene(&left, &right, boolean::and_kleene)
    }

    /// The second operand counts where the first is not true.
    fn either(&mut self, left: &Expr, right: &Expr, active: &Active) -> Result<Value, ArrowError> {
        let left = self.value(left, active)?;
        let true_at = self.truth(&left);
        let right = self.value(right, &Some(and(active, &!&true_at)))?;
        self.kleene(&left, &right, boolean::or_kleene)
    }

    fn kleene(
        &self,
        left: &Value,
        right: &Value,
        kernel: fn(&BooleanArray, &BooleanArray) -> Result<BooleanArray, ArrowError>,
    ) -> Result<Value, ArrowError> {
        let (left, right) = (Value::column(left.expand(self.rows)?), Value::column(right.expand(self.rows)?));
        Ok(Value::column(Arc::new(kernel(left.booleans(), right.booleans())?)))
    }

    fn truth(&self, value: &Value) -> BooleanBuffer {
        self.bits(value, |value| value == Some(true))
    }

    fn bits(&self, value: &Value, test: impl Fn(Option<bool>) -> bool) -> BooleanBuffer {
        let booleans = value.booleans();
        let of = |row: usize| {
            let place = value.at(row);
            test((!booleans.is_null(place)).then(|| booleans.value(place)))
        };
        BooleanBuffer::collect_bool(self.rows, of)
    }

    fn compare(&self, comparison: Comparison, left: &Value, right: &Value) -> Result<Value, ArrowError> {
        let is_scalar = left.is_scalar && right.is_scalar;
        let array = if left.array.data_type() == &Type::Double.arrow() {
            self.compare_doubles(comparison, left, right, if is_scalar { 1 } else { self.rows })
        } else {
            let kernel = match comparison {
                Comparison::Equal => cmp::eq,
                Comparison::NotEqual => cmp::neq,
                Comparison::Less => cmp::lt,
                Comparison::LessEqual => cmp::lt_eq,
                Comparison::Greater => cmp::gt,
                Comparison::GreaterEqual => cmp::gt_eq,
                Comparison::Distinct => cmp::distinct,
                Comparison::NotDistinct => cmp::not_distinct,
            };
            kernel(left, right)?
        };
        Ok(Value { array: Arc::new(array), is_scalar })
    }

    /// As PostgreSQL orders them: both zeros are equal, all that are no numbers are equal and greater than all numbers.
    fn compare_doubles(&self, comparison: Comparison, left: &Value, right: &Value, rows: usize) -> BooleanArray {
        let bits = match comparison {
            Comparison::Equal => doubles_where(left, right, rows, equal),
            Comparison::NotEqual => doubles_where(left, right, rows, |a, b| !equal(a, b)),
            Comparison::Less => doubles_where(left, right, rows, less),
            Comparison::LessEqual => doubles_where(left, right, rows, |a, b| !less(b, a)),
            Comparison::Greater => doubles_where(left, right, rows, |a, b| less(b, a)),
            Comparison::GreaterEqual => doubles_where(left, right, rows, |a, b| !less(a, b)),
            Comparison::Distinct | Comparison::NotDistinct => {
                let both = doubles_where(left, right, rows, equal);
                let same = |row| match (left.is_null(row), right.is_null(row)) {
                    (false, false) => both.value(row),
                    (one, other) => one == other,
                };
                let wanted = comparison == Comparison::NotDistinct;
                return BooleanArray::new(BooleanBuffer::collect_bool(rows, |row| same(row) == wanted), None);
            }
        };
        BooleanArray::new(bits, known(left, right, rows))
    }

    fn arithmetic(
        &mut self,
        operation: Operation,
        left: &Value,
        right: &Value,
        ty: Type,
        active: &Active,
    ) -> Result<Value, ArrowError> {
        let is_scalar = left.is_scalar && right.is_scalar;
        let kernel = match operation {
            Operation::Add => numeric::add,
            Operation::Subtract => numeric::sub,
            Operation::Multiply => numeric::mul,
            Operation::Divide => numeric::div,
            Operation::Remainder => numeric::rem,
        };
        match ty {
            Type::Double => {
                let result = Value { array: kernel(left, right)?, is_scalar };
                self.check_doubles(operation, (left, right), result, active)
            }
            Type::Bigint => match kernel(left, right) {
                Ok(array) => Ok(Value { array, is_scalar }),
                // Some rows fail; which ones, the loop finds.
                Err(_) => Ok(self.whole(left, right, ty, active, |a, b| whole(operation, a, b))),
            },
            _ => Ok(self.whole(left, right, ty, active, |a, b| match operation {
                Operation::Add => a.checked_add(b).ok_or("timestamp out of range"),
                Operation::Subtract => a.checked_sub(b).ok_or("timestamp out of range"),
                _ => whole(operation, a, b),
            })),
        }
    }

    /// A loop over whole numbers that may fail on each.
    fn whole(
        &mut self,
        left: &Value,
        right: &Value,
        ty: Type,
        active: &Active,
        of: impl Fn(i64, i64) -> Result<i64, &'static str>,
    ) -> Value {
        let is_scalar = left.is_scalar && right.is_scalar;
        let rows = if is_scalar { 1 } else { self.rows };
        let (lefts, rights) = (left.integers(), right.integers());
        let nulls = known(left, right, rows);
        let mut values = Vec::with_capacity(rows);
        let mut failed = Vec::new();
        for row in 0..rows {
            let operands = (lefts.get(left.at(row)), rights.get(right.at(row)));
            let value = match (nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)), operands) {
                (true, (Some(left), Some(right))) => of(*left, *right),
                _ => Ok(0),
            };
            values.push(value.unwrap_or_default());
            if let Err(reason) = value {
                failed.push(row);
                self.fault(row, is_scalar, active, reason);
            }
        }
        let failed = (!failed.is_empty()).then(|| {
            let mut valid = vec![true; rows];
            for row in &failed {
                if let Some(valid) = valid.get_mut(*row) {
                    *valid = false;
                }
            }
            NullBuffer::from(valid)
        });
        let nulls = NullBuffer::union(nulls.as_ref(), failed.as_ref());
        Value { array: micros(ty, ScalarBuffer::from(values), nulls), is_scalar }
    }

    /// What the processor gives as infinite or as no number, though the operands are numbers, is a fault.
    fn check_doubles(
        &mut self,
        operation: Operation,
        (left, right): (&Value, &Value),
        result: Value,
        active: &Active,
    ) -> Result<Value, ArrowError> {
        let is_scalar = result.is_scalar;
        if result.doubles().iter().all(|value| value.is_finite()) {
            return Ok(result);
        }
        let divides = matches!(operation, Operation::Divide | Operation::Remainder);
        let mut failed = Vec::new();
        for (row, value) in result.doubles().iter().enumerate().filter(|(_, value)| !value.is_finite()) {
            let operand = |of: &Value| of.doubles().get(of.at(row)).copied().unwrap_or_default();
            let (a, b) = (operand(left), operand(right));
            let reason = match () {
                () if result.is_null(row) => continue,
                () if divides && b == 0.0 && !a.is_nan() => "division by zero",
                () if a.is_finite() && b.is_finite() && value.is_infinite() => "value out of range: overflow",
                () => continue,
            };
            failed.push((row, reason));
        }
        if failed.is_empty() {
            return Ok(result);
        }
        for (row, reason) in &failed {
            self.fault(*row, is_scalar, active, *reason);
        }
        let bits = BooleanBuffer::collect_bool(result.array.len(), |row| {
            failed.binary_search_by_key(&row, |(failed, _)| *failed).is_ok()
        });
        let array = arrow_select::nullif::nullif(&result.array, &BooleanArray::new(bits, None))?;
        Ok(Value { array, is_scalar })
    }

    fn negate(&mut self, of: &Expr, active: &Active) -> Result<Value, ArrowError> {
        let of = self.value(of, active)?;
        if of.array.data_type() == &Type::Double.arrow() {
            return Ok(Value { array: numeric::neg(of.array.as_ref())?, is_scalar: of.is_scalar });
        }
        let ty = if of.array.data_type() == &Type::Interval.arrow() { Type::Interval } else { Type::Bigint };
        let zero = Value { array: micros(ty, vec![0].into(), None), is_scalar: true };
        Ok(self.whole(&zero, &of, ty, active, |zero, value| zero.checked_sub(value).ok_or(OUT_OF_RANGE)))
    }

    /// The upper bound counts where the value is not below the lower one.
    fn between(&mut self, of: &Expr, low: &Expr, high: &Expr, active: &Active) -> Result<Value, ArrowError> {
        let (of, low) = (self.value(of, active)?, self.value(low, active)?);
        let from = self.compare(Comparison::GreaterEqual, &of, &low)?;
        let below = self.bits(&from, |value| value == Some(false));
        let high = self.value(high, &Some(and(active, &!&below)))?;
        let to = self.compare(Comparison::LessEqual, &of, &high)?;
        self.kleene(&from, &to, boolean::and_kleene)
    }

    /// What stands in the list counts as long as nothing before is equal.
    fn is_in(&mut self, of: &Expr, list: &[Expr], active: &Active) -> Result<Value, ArrowError> {
        let of = self.value(of, active)?;
        let none: ArrayRef = Arc::new(BooleanArray::from(vec![false]));
        let mut found = Value { array: none, is_scalar: true };
        for one in list {
            let one = match one {
                Expr::Literal(literal, ty) => Value::literal(literal, *ty),
                one => {
                    let left = Some(and(active, &!&self.truth(&found)));
                    self.value(one, &left)?
                }
            };
            let equal = self.compare(Comparison::Equal, &of, &one)?;
            found = self.kleene(&found, &equal, boolean::or_kleene)?;
        }
        Ok(found)
    }

    fn case(
        &mut self,
        operand: Option<&Expr>,
        branches: &[(Expr, Expr)],
        otherwise: &Expr,
        active: &Active,
    ) -> Result<Value, ArrowError> {
        let operand = operand.map(|operand| self.value(operand, active)).transpose()?;
        let mut left = active.clone();
        let mut taken: Vec<(BooleanBuffer, Value)> = Vec::with_capacity(branches.len());
        for (condition, result) in branches {
            let condition = self.value(condition, &left)?;
            let holds = match &operand {
                None => self.truth(&condition),
                Some(operand) => self.truth(&self.compare(Comparison::Equal, operand, &condition)?),
            };
            let here = Some(and(&left, &holds));
            let value = self.value(result, &here)?;
            left = Some(and(&left, &!&holds));
            taken.extend(here.map(|here| (here, value)));
        }
        let mut result = Value::column(self.value(otherwise, &left)?.expand(self.rows)?);
        for (here, value) in taken.into_iter().rev() {
            let mask = BooleanArray::new(here, None);
            result = self.zip(&mask, &value, &result)?;
        }
        Ok(result)
    }

    /// Operands count as long as all before are null.
    fn coalesce(&mut self, of: &[Expr], active: &Active) -> Result<Value, ArrowError> {
        let Some((first, rest)) = of.split_first() else {
            return Err(ArrowError::InvalidArgumentError("COALESCE of nothing".to_owned()));
        };
        let mut result = Value::column(self.value(first, active)?.expand(self.rows)?);
        for next in rest {
            if result.array.null_count() == 0 {
                break;
            }
            let missing = BooleanBuffer::collect_bool(self.rows, |row| result.array.is_null(row));
            let next = self.value(next, &Some(and(active, &missing)))?;
            let mask = BooleanArray::new(missing, None);
            result = self.zip(&mask, &next, &result)?;
        }
        Ok(result)
    }

    /// The first where the mask is set, else the second.
    fn zip(&self, mask: &BooleanArray, here: &Value, elsewhere: &Value) -> Result<Value, ArrowError> {
        let bytes = |value: &Value| value.text_bytes() * if value.is_scalar { self.rows } else { 1 };
        bounded(bytes(here), self.rows)?;
        let array = arrow_select::zip::zip(mask, here, elsewhere)?;
        let zipped = Value::column(array);
        bounded(bytes(&zipped), self.rows)?;
        Ok(zipped)
    }

    /// A loop over single values, for everything that has no kernel.
    fn each<'c>(
        &mut self,
        arguments: &'c [Value],
        ty: Type,
        active: &Active,
        of: impl Fn(&[Option<Cell<'c>>]) -> Result<Option<Cell<'static>>, String>,
    ) -> Result<Value, ArrowError> {
        let is_scalar = arguments.iter().all(|argument| argument.is_scalar);
        let rows = if is_scalar { 1 } else { self.rows };
        let mut cells = Vec::with_capacity(rows);
        let mut operands = Vec::with_capacity(arguments.len());
        let mut bytes = 0;
        for row in 0..rows {
            operands.clear();
            // What does not count need not be computed either.
            let counts = is_scalar || active.as_ref().is_none_or(|active| active.value(row));
            if !counts {
                cells.push(None);
                continue;
            }
            operands.extend(arguments.iter().map(|argument| argument.cell(row)));
            let cell = of(&operands).unwrap_or_else(|reason| {
                self.fault(row, is_scalar, active, reason);
                None
            });
            bytes += cell.as_ref().map_or(0, Cell::text_bytes) * if is_scalar { self.rows } else { 1 };
            bounded(bytes, self.rows)?;
            cells.push(cell);
        }
        Ok(Value { array: column(ty, cells.into_iter()), is_scalar })
    }

    /// Notes that a row failed; what fails for all rows at once, on all that count.
    fn fault(&mut self, row: usize, is_scalar: bool, active: &Active, reason: impl Into<String>) {
        let counts = |row: usize| active.as_ref().is_none_or(|active| active.value(row));
        let reason = reason.into();
        let rows = if is_scalar { 0..self.rows } else { row..row + 1 };
        for row in rows.filter(|row| counts(*row)) {
            self.faults.entry(row).or_insert_with(|| reason.clone());
        }
    }
}

const OUT_OF_RANGE: &str = "bigint out of range";

fn whole(operation: Operation, left: i64, right: i64) -> Result<i64, &'static str> {
    let result = match operation {
        Operation::Add => left.checked_add(right),
        Operation::Subtract => left.checked_sub(right),
        Operation::Multiply => left.checked_mul(right),
        Operation::Divide | Operation::Remainder if right == 0 => return Err("division by zero"),
        Operation::Divide => left.checked_div(right),
        // The remainder by -1 is 0, also of the least number.
        Operation::Remainder => Some(left.wrapping_rem(right)),
    };
    result.ok_or(OUT_OF_RANGE)
}

/// Where a test holds of two columns of doubles, of which each may be one value for all rows.
fn doubles_where(left: &Value, right: &Value, rows: usize, test: impl Fn(f64, f64) -> bool) -> BooleanBuffer {
    let (lefts, rights) = (left.doubles(), right.doubles());
    let at = |values: &[f64], row: usize| values.get(row).copied().unwrap_or_default();
    match (left.is_scalar, right.is_scalar) {
        (false, false) => BooleanBuffer::collect_bool(rows, |row| test(at(lefts, row), at(rights, row))),
        (false, true) => {
            let right = at(rights, 0);
            BooleanBuffer::collect_bool(rows, |row| test(at(lefts, row), right))
        }
        (true, _) => {
            let left = at(lefts, 0);
            BooleanBuffer::collect_bool(rows, |row| test(left, at(rights, right.at(row))))
        }
    }
}

fn equal(left: f64, right: f64) -> bool {
    left == right || (left.is_nan() && right.is_nan())
}

fn less(left: f64, right: f64) -> bool {
    left < right || (right.is_nan() && !left.is_nan())
}

fn tested(test: Test, of: &Value) -> BooleanArray {
    let is_null = |place: usize| of.array.is_null(place);
    let is = |place: usize, wanted: bool| !is_null(place) && of.booleans().value(place) == wanted;
    let bits = BooleanBuffer::collect_bool(of.array.len(), |place| match test {
        Test::Null => is_null(place),
        Test::NotNull => !is_null(place),
        Test::True => is(place, true),
        Test::NotTrue => !is(place, true),
        Test::False => is(place, false),
        Test::NotFalse => !is(place, false),
    });
    BooleanArray::new(bits, None)
}

fn same(of: &Value, array: BooleanArray) -> Value {
    Value { array: Arc::new(array), is_scalar: of.is_scalar }
}

fn and(active: &Active, also: &BooleanBuffer) -> BooleanBuffer {
    active.as_ref().map_or_else(|| also.clone(), |active| active & also)
}
