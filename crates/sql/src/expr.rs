//! Expressions whose names and types have been checked.

use std::sync::Arc;

use crate::function::Function;
use crate::types::Type;
use crate::user_function::UserFunction;

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bigint(i64),
    Double(f64),
    Boolean(bool),
    Text(String),
    /// Microseconds since 1970.
    Timestamp(i64),
    /// Microseconds.
    Interval(i64),
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    /// As `NotEqual`, but null is a value like any other.
    Distinct,
    NotDistinct,
}

/// What is asked of a value; the answer is never null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Null,
    NotNull,
    True,
    NotTrue,
    False,
    NotFalse,
}

/// Operations on two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Operation {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        }
    }
}

/// An expression over the columns of a row. Operands have the types that the checker gave them. What stands once in the
/// query stands once here: links of a chain that had their operand twice would double the tree each.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    /// The column at that place.
    Column(usize),
    Literal(Literal, Type),
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Compare(Comparison, Box<Expr>, Box<Expr>),
    Test(Test, Box<Expr>),
    /// Of two numbers of one type, or of moments and lengths of time, which are all whole microseconds. The type is the
    /// result's.
    Arithmetic(Operation, Box<Expr>, Box<Expr>, Type),
    Negate(Box<Expr>),
    /// Whether the first is not below the second, and not above the third.
    Between([Box<Expr>; 3]),
    /// Whether it is equal to one of the list.
    In(Box<Expr>, Vec<Expr>),
    /// The first branch that holds or, if there is an operand, that is equal to it.
    Case {
        operand: Option<Box<Expr>>,
        branches: Vec<(Expr, Expr)>,
        otherwise: Box<Expr>,
    },
    Coalesce(Vec<Expr>),
    NullIf(Box<Expr>, Box<Expr>),
    Like {
        text: Box<Expr>,
        pattern: Box<Expr>,
        negated: bool,
        any_case: bool,
    },
    Cast(Box<Expr>, Type),
    Call(&'static Function, Vec<Expr>),
    /// A function of the app.
    User(Arc<UserFunction>, Vec<Expr>),
}

impl Expr {
    pub(crate) fn null(ty: Type) -> Self {
        Self::Literal(Literal::Null, ty)
    }

    /// Does something with the place of each column in it, in the order in which they stand.
    pub(crate) fn each_column(&mut self, of: &mut dyn FnMut(&mut usize)) {
        match self {
            Self::Column(place) => of(place),
            Self::Literal(..) => {}
            Self::Not(one) | Self::Test(_, one) | Self::Negate(one) | Self::Cast(one, _) => one.each_column(of),
            Self::And(left, right)
            | Self::Or(left, right)
            | Self::Compare(_, left, right)
            | Self::Arithmetic(_, left, right, _)
            | Self::NullIf(left, right)
            | Self::Like { text: left, pattern: right, .. } => {
                [left, right].into_iter().for_each(|one| one.each_column(of))
            }
            Self::Between(parts) => parts.iter_mut().for_each(|one| one.each_column(of)),
            Self::In(one, list) => std::iter::once(&mut **one).chain(list).for_each(|one| one.each_column(of)),
            Self::Coalesce(list) | Self::Call(_, list) | Self::User(_, list) => {
                list.iter_mut().for_each(|one| one.each_column(of));
            }
            Self::Case { operand, branches, otherwise } => {
                operand.iter_mut().for_each(|one| one.each_column(of));
                for (condition, result) in branches {
                    condition.each_column(of);
                    result.each_column(of);
                }
                otherwise.each_column(of);
            }
        }
    }

    /// Does something with each function of the app that it calls.
    pub(crate) fn each_user_function(&self, of: &mut dyn FnMut(&Arc<UserFunction>)) {
        if let Self::User(function, _) = self {
            of(function);
        }
        self.parts().into_iter().for_each(|part| part.each_user_function(of));
    }

    /// What it is computed of.
    fn parts(&self) -> Vec<&Self> {
        match self {
            Self::Column(_) | Self::Literal(..) => Vec::new(),
            Self::Not(one) | Self::Test(_, one) | Self::Negate(one) | Self::Cast(one, _) => vec![one],
            Self::And(left, right)
            | Self::Or(left, right)
            | Self::Compare(_, left, right)
            | Self::Arithmetic(_, left, right, _)
            | Self::NullIf(left, right)
            | Self::Like { text: left, pattern: right, .. } => vec![left, right],
            Self::Between(parts) => parts.iter().map(|part| &**part).collect(),
            Self::In(one, list) => std::iter::once(&**one).chain(list).collect(),
            Self::Coalesce(list) | Self::Call(_, list) | Self::User(_, list) => list.iter().collect(),
            Self::Case { operand, branches, otherwise } => {
                let branches = branches.iter().flat_map(|(condition, result)| [condition, result]);
                operand.as_deref().into_iter().chain(branches).chain([&**otherwise]).collect()
            }
        }
    }
}
