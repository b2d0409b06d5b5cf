//! The statements: `CREATE STREAM`, `CREATE FUNCTION` and `CREATE FLOW`, of our own around the queries of the grammar.
//!
//! Texts are bounded, and so is what one statement may nest: the tree of a query is walked by recursion.

use std::ops::Range;

use littoral_model::id::{Tier, check_name};
use littoral_model::unit::{Size, Time};
use sqlparser::ast::{Ident, Query};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use crate::cast::interval;
use crate::dialect::FlowDialect;
use crate::source::Source;
use crate::spread::KEYED_PARTITIONS_MAX;
use crate::types::{Column, Type};

/// The most parameters of a function.
const PARAMETERS_MAX: usize = 32;
/// The most words and signs of a statement: a query of several pages, and a tree of which the deepest branch, each
/// operator below the one before, still fits the stack of a small thread.
const TOKENS_MAX: usize = 2_000;
/// The most partitions of a stream, as in the manifest.
const STREAM_PARTITIONS_MAX: u32 = 1_024;
/// How deep the parser may nest.
const NESTING_MAX: usize = 32;

/// A name, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) at: Range<usize>,
}

/// A statement.
#[derive(Debug)]
pub(crate) enum Statement {
    Stream(CreateStream),
    Flow(Box<CreateFlow>),
    Function(CreateFunction),
    /// One that has been reported: what has its name is there, but nothing is known of it.
    Broken(String),
    /// The same of a function.
    BrokenFunction(String),
}

/// `CREATE FUNCTION`: what an expression may call of the app.
#[derive(Debug)]
pub(crate) struct CreateFunction {
    /// What expressions call it.
    pub(crate) name: Name,
    pub(crate) parameters: Vec<(String, Type)>,
    pub(crate) result: Type,
    /// The function of the app.
    pub(crate) function: Name,
    /// What its component exports.
    pub(crate) export: String,
}

/// `CREATE STREAM`.
#[derive(Debug)]
pub(crate) struct CreateStream {
    pub(crate) name: Name,
    /// Its columns; those of a record if it names none.
    pub(crate) columns: Option<Vec<Column>>,
    pub(crate) watermark: Option<Watermark>,
    /// What a manifest would say of it, too; where it says that stands.
    pub(crate) settings: StreamSettings,
}

/// How much the moments in a column may be out of order.
#[derive(Clone, Debug)]
pub(crate) struct Watermark {
    pub(crate) column: String,
    pub(crate) delay_us: i64,
}

/// What a manifest says of a stream, too.
#[derive(Debug, Default)]
pub(crate) struct StreamSettings {
    pub(crate) partitions: Option<u32>,
    pub(crate) age: Option<Time>,
    pub(crate) size: Option<Size>,
    pub(crate) tier: Option<Tier>,
    pub(crate) regions: Vec<String>,
    /// Where the first of them stands.
    pub(crate) at: Option<Range<usize>>,
}

/// `CREATE FLOW`.
#[derive(Debug)]
pub(crate) struct CreateFlow {
    pub(crate) name: Name,
    pub(crate) within: Option<Time>,
    /// Whether rows that are too old for that may be passed over.
    pub(crate) sheds: bool,
    pub(crate) regions: Vec<String>,
    pub(crate) prefer: Option<Tier>,
    pub(crate) dead_letter: Option<Name>,
    pub(crate) late: Option<Name>,
    pub(crate) lateness: Option<Length>,
    pub(crate) idle: Option<Length>,
    pub(crate) partitions: Option<Count>,
    pub(crate) phases: Option<Phases>,
    pub(crate) ports: Vec<PortInto>,
    pub(crate) query: Box<Query>,
    /// Where the query stands.
    pub(crate) at: Range<usize>,
}

/// Where rows go that a function puts out beside its result: `PORT scored INTO scores`.
#[derive(Debug)]
pub(crate) struct PortInto {
    pub(crate) port: Name,
    pub(crate) stream: Name,
}

/// A length of time of a clause, and where that stands: how much later a row still changes the result of its window, or after how
/// long a partition without rows is not waited for.
#[derive(Debug)]
pub(crate) struct Length {
    pub(crate) us: i64,
    pub(crate) at: Range<usize>,
}

/// Over how many partitions rows are spread by their keys, and where the clause that says it stands.
#[derive(Debug)]
pub(crate) struct Count {
    pub(crate) number: u32,
    pub(crate) at: Range<usize>,
}

/// In how many phases rows of several partitions are aggregated: `AGGREGATE IN TWO PHASES`.
#[derive(Debug)]
pub(crate) struct Phases {
    pub(crate) are_two: bool,
    pub(crate) at: Range<usize>,
}

/// Reads all statements of a text; what cannot be read is a finding, at most one a statement.
pub(crate) fn parse(source: &mut Source<'_>) -> Vec<Statement> {
    let tokens = match Tokenizer::new(&FlowDialect, source.text()).tokenize_with_location() {
        Ok(tokens) => tokens,
        Err(error) => {
            let at = source.range(Span::new(error.location, error.location));
            source.add("syntax", at, error.message);
            return Vec::new();
        }
    };
    let is_text = |token: &TokenWithSpan| !matches!(token.token, Token::Whitespace(_));
    let tokens: Vec<TokenWithSpan> = tokens.into_iter().filter(is_text).collect();
    let statements = tokens.split(|token| token.token == Token::SemiColon).filter(|tokens| !tokens.is_empty());
    statements.filter_map(|tokens| Cursor::new(source, tokens).statement()).collect()
}

/// An error has been reported.
struct Reported;

type Read<T> = Result<T, Reported>;

/// What is left to be read of a statement.
struct Cursor<'c, 's, 't> {
    source: &'s mut Source<'t>,
    tokens: &'c [TokenWithSpan],
    next: usize,
    /// What the statement is if the rest of it cannot be read, once it is known what it makes.
    broken: Option<Statement>,
}

impl<'c, 's, 't> Cursor<'c, 's, 't> {
    fn new(source: &'s mut Source<'t>, tokens: &'c [TokenWithSpan]) -> Self {
        Self { source, tokens, next: 0, broken: None }
    }

    fn statement(mut self) -> Option<Statement> {
        if self.tokens.len() > TOKENS_MAX {
            let at = self.here();
            let message = format!("the statement has {} words and signs", self.tokens.len());
            self.source.add("too-large", at, message).expected(format!("at most {TOKENS_MAX}"));
            return None;
        }
        let read = match () {
            () if !self.word("create") => {
                Err(self.expected("CREATE STREAM, CREATE FUNCTION or CREATE FLOW", &["create"]))
            }
            () if self.word("stream") => self.stream().map(Statement::Stream),
            () if self.word("flow") => self.flow().map(|flow| Statement::Flow(Box::new(flow))),
            () if self.word("function") => self.function().map(Statement::Function),
            () => Err(self.expected("STREAM, FUNCTION or FLOW", &["stream", "function", "flow"])),
        };
        read.ok().or(self.broken)
    }

    fn stream(&mut self) -> Read<CreateStream> {
        let name = self.name("the name of the stream")?;
        self.broken = Some(Statement::Broken(name.text.clone()));
        let mut stream = CreateStream { name, columns: None, watermark: None, settings: StreamSettings::default() };
        if self.sign(&Token::LParen) {
            let mut columns: Vec<Column> = Vec::new();
            loop {
                let at = self.here();
                if self.word("watermark") {
                    if stream.watermark.replace(self.watermark()?).is_some() {
                        return Err(self.twice("WATERMARK", at));
                    }
                } else {
                    let (column, at) = self.column()?;
                    if columns.iter().any(|other| other.name == column.name) {
                        let message = format!("the stream has two columns `{}`", column.name);
                        self.source.add("duplicate", at, message).help("rename one of them");
                        return Err(Reported);
                    }
                    columns.push(column);
                }
                if self.sign(&Token::RParen) {
                    break;
                }
                if !self.sign(&Token::Comma) {
                    return Err(self.expected("`,` or `)`", &[]));
                }
            }
            stream.columns = Some(columns);
        }
        self.settings(&mut stream.settings)?;
        Ok(stream)
    }

    fn column(&mut self) -> Read<(Column, Range<usize>)> {
        let at = self.here();
        let ident = self.ident("the name of a column")?;
        let ty = self.column_type()?;
        let mut column = Column::new(&column_name(&ident), ty);
        if self.word("not") {
            if !self.word("null") {
                return Err(self.expected("NULL", &["null"]));
            }
            column.nullable = false;
        }
        Ok((column, at))
    }

    /// `detect (mean double) RETURNS double LANGUAGE wasm AS 'detector', 'detect'`.
    fn function(&mut self) -> Read<CreateFunction> {
        let at = self.here();
        let ident = self.ident("the name of the function")?;
        let name = Name { text: column_name(&ident), at };
        self.broken = Some(Statement::BrokenFunction(name.text.clone()));
        if !self.sign(&Token::LParen) {
            return Err(self.expected("`(` and what it takes", &[]));
        }
        let mut parameters = Vec::new();
        while !self.sign(&Token::RParen) {
            if !parameters.is_empty() && !self.sign(&Token::Comma) {
                return Err(self.expected("`,` or `)`", &[]));
            }
            self.parameter(&mut parameters)?;
        }
        if !self.word("returns") {
            return Err(self.expected("RETURNS and a type", &["returns"]));
        }
        let result = self.any_type()?;
        if self.word("language") && !self.word("wasm") {
            return Err(self.expected("wasm", &["wasm"]));
        }
        // Names of the fabric, and those of WIT, have hyphens where those of SQL have underscores.
        let mut function = Name { text: fabric_name(&ident), at: name.at.clone() };
        let mut export = function.text.clone();
        if self.word("as") {
            let (text, at) = self.text("the name of a function of the app, as 'detector'")?;
            function = Name { text, at };
            if self.sign(&Token::Comma) {
                export = self.text("the name of a function that its component exports, as 'detect'")?.0;
            }
        }
        if self.next < self.tokens.len() {
            return Err(self.expected("LANGUAGE wasm, AS or `;`", &["language", "as"]));
        }
        Ok(CreateFunction { name, parameters, result, function, export })
    }

    fn parameter(&mut self, parameters: &mut Vec<(String, Type)>) -> Read<()> {
        let at = self.here();
        let name = column_name(&self.ident("the name of a parameter, or `)`")?);
        if parameters.iter().any(|(other, _)| *other == name) {
            self.source.add("duplicate", at, format!("there are two parameters `{name}`")).help("rename one of them");
            return Err(Reported);
        }
        if parameters.len() >= PARAMETERS_MAX {
            let message = format!("a function takes at most {PARAMETERS_MAX} arguments");
            self.source.add("too-large", at, message).help("take several in one text, as JSON");
            return Err(Reported);
        }
        parameters.push((name, self.any_type()?));
        Ok(())
    }

    /// The type of a column: an interval is none.
    fn column_type(&mut self) -> Read<Type> {
        let at = self.here();
        let ty = self.any_type()?;
        if ty == Type::Interval {
            self.source
                .add("wrong-type", at, "a column of a stream cannot be an interval")
                .help("keep it as a number of seconds, and multiply: `INTERVAL '1 s' * seconds`");
            return Err(Reported);
        }
        Ok(ty)
    }

    fn any_type(&mut self) -> Read<Type> {
        let at = self.here();
        let Some(first) = self.peek_word().map(str::to_lowercase) else {
            return Err(self.expected("a type", &[]));
        };
        self.next += 1;
        let long: &[&[&str]] = match first.as_str() {
            "double" => &[&["precision"]],
            "timestamp" => &[&["with", "time", "zone"], &["without", "time", "zone"]],
            _ => &[],
        };
        let follows = |words: &&&[&str]| {
            words.iter().zip(self.next..).all(|(word, at)| self.word_at(at).as_deref() == Some(*word))
        };
        let rest = long.iter().find(follows);
        self.next += rest.map_or(0, |words| words.len());
        match Type::named(&first) {
            Some(ty) => Ok(ty),
            None => {
                let known = Type::names();
                let message = format!("there is no type `{first}`");
                let expected = "bigint, double, boolean, text or timestamp";
                self.source.add("unknown-name", at, message).expected(expected).nearest(&first, known);
                Err(Reported)
            }
        }
    }

    /// `WATERMARK FOR ts AS ts - INTERVAL '5 seconds'`, of which the first word is read.
    fn watermark(&mut self) -> Read<Watermark> {
        if !self.word("for") {
            return Err(self.expected("FOR", &["for"]));
        }
        let column = column_name(&self.ident("a column of moments")?);
        if !self.word("as") {
            return Err(self.expected("AS", &["as"]));
        }
        let at = self.here();
        let again = column_name(&self.ident("the same column")?);
        if again != column {
            self.source
                .add("wrong-watermark", at, format!("the watermark is of `{column}`"))
                .expected(format!("`{column}`"));
            return Err(Reported);
        }
        let delay_us = if self.sign(&Token::Minus) { self.interval()? } else { 0 };
        Ok(Watermark { column, delay_us })
    }

    fn interval(&mut self) -> Read<i64> {
        // The word is allowed, for it stands there in SQL.
        let _ = self.word("interval");
        let (text, at) = self.text("a length of time, as '5 seconds'")?;
        match interval(&text, None).filter(|us| *us >= 0) {
            Some(us) => Ok(us),
            None => {
                self.source
                    .add("invalid-interval", at, format!("`{text}` is no length of time"))
                    .expected("one as '5 seconds'");
                Err(Reported)
            }
        }
    }

    fn settings(&mut self, settings: &mut StreamSettings) -> Read<()> {
        let mut said = Vec::new();
        while self.next < self.tokens.len() {
            let at = self.here();
            settings.at.get_or_insert(at.clone());
            // An age and a size may both be said.
            if !self.peek_word().is_some_and(|word| word.eq_ignore_ascii_case("retain")) {
                self.once(&mut said)?;
            }
            if self.word("partitions") {
                settings.partitions = Some(self.partitions(STREAM_PARTITIONS_MAX)?);
            } else if self.word("retain") {
                let (text, at) = self.text("a time or a size, as '7 d' or '1GiB'")?;
                let is_again = match (text.parse::<Time>(), text.parse::<Size>()) {
                    (Ok(age), _) => settings.age.replace(age).is_some(),
                    (_, Ok(size)) => settings.size.replace(size).is_some(),
                    (Err(error), _) => {
                        self.source
                            .add("invalid-unit", at, error.to_string())
                            .expected("a time or a size, as '7 d' or '1GiB'");
                        return Err(Reported);
                    }
                };
                if is_again {
                    return Err(self.twice("RETAIN", at));
                }
            } else if self.word("on") {
                if !self.word("tier") {
                    return Err(self.expected("TIER", &["tier"]));
                }
                settings.tier = Some(self.tier()?);
            } else if self.word("keep") {
                settings.regions = self.regions()?;
            } else {
                let known = ["partitions", "retain", "on", "keep"];
                return Err(self.expected("PARTITIONS, RETAIN, ON TIER, KEEP IN REGION or `;`", &known));
            }
        }
        Ok(())
    }

    /// Notes the clause that comes next, which may stand once.
    fn once(&mut self, said: &mut Vec<&'c str>) -> Read<()> {
        let Some(word) = self.peek_word() else { return Ok(()) };
        if said.iter().any(|known| known.eq_ignore_ascii_case(word)) {
            let at = self.here();
            return Err(self.twice(&word.to_uppercase(), at));
        }
        said.push(word);
        Ok(())
    }

    fn twice(&mut self, clause: &str, at: Range<usize>) -> Reported {
        self.source.add("duplicate", at, format!("{clause} is said twice")).help("drop one of both");
        Reported
    }

    fn partitions(&mut self, most: u32) -> Read<u32> {
        let number = match self.tokens.get(self.next).map(|token| &token.token) {
            Some(Token::Number(digits, _)) => digits.parse().ok().filter(|number| (1..=most).contains(number)),
            _ => None,
        };
        match number {
            Some(number) => {
                self.next += 1;
                Ok(number)
            }
            None => Err(self.expected(&format!("a number of partitions, 1 to {most}"), &[])),
        }
    }

    /// `IN TWO PHASES` or `IN ONE PHASE`.
    fn are_two_phases(&mut self) -> Read<bool> {
        if !self.word("in") {
            return Err(self.expected("IN ONE PHASE or IN TWO PHASES", &["in"]));
        }
        let are_two = self.word("two");
        if !are_two && !self.word("one") {
            return Err(self.expected("ONE PHASE or TWO PHASES", &["one", "two"]));
        }
        let phases = if are_two { "phases" } else { "phase" };
        if !self.word(phases) {
            return Err(self.expected(&phases.to_uppercase(), &[phases]));
        }
        Ok(are_two)
    }

    fn flow(&mut self) -> Read<CreateFlow> {
        let name = self.name("the name of the flow")?;
        self.broken = Some(Statement::Broken(name.text.clone()));
        let (mut within, mut sheds, mut regions, mut prefer) = (None, false, Vec::new(), None);
        let (mut dead_letter, mut late, mut lateness, mut idle, mut partitions) = (None, None, None, None, None);
        let (mut phases, mut ports, mut said) = (None, Vec::new(), Vec::new());
        while !self.word("as") {
            if self.word("port") {
                ports.push(self.port_into()?);
                continue;
            }
            self.once(&mut said)?;
            let at = self.here();
            if self.word("within") {
                within = Some(self.within()?);
                sheds = self.or_shed()?;
            } else if self.word("keep") {
                regions = self.regions()?;
            } else if self.word("prefer") {
                prefer = Some(self.tier()?);
            } else if self.word("dead") {
                if !self.word("letter") {
                    return Err(self.expected("LETTER", &["letter"]));
                }
                dead_letter = Some(self.stream_after_into()?);
            } else if self.word("late") {
                late = Some(self.stream_after_into()?);
            } else if self.word("allow") {
                if !self.word("lateness") {
                    return Err(self.expected("LATENESS", &["lateness"]));
                }
                lateness = Some(Length { us: self.interval()?, at });
            } else if self.word("idle") {
                if !self.word("after") {
                    return Err(self.expected("AFTER", &["after"]));
                }
                idle = Some(Length { us: self.interval()?, at });
            } else if self.word("partitions") {
                partitions = Some(Count { number: self.partitions(KEYED_PARTITIONS_MAX)?, at });
            } else if self.word("aggregate") {
                phases = Some(Phases { are_two: self.are_two_phases()?, at });
            } else {
                let known = [
                    "within",
                    "keep",
                    "prefer",
                    "dead",
                    "late",
                    "allow",
                    "idle",
                    "partitions",
                    "aggregate",
                    "port",
                    "as",
                ];
                return Err(self.expected(
                    "WITHIN, KEEP IN REGION, PREFER, DEAD LETTER INTO, LATE INTO, ALLOW LATENESS, IDLE AFTER, PARTITIONS, AGGREGATE, PORT or AS",
                    &known,
                ));
            }
        }
        let (query, at) = self.query()?;
        let clauses = CreateFlow {
            name,
            within,
            sheds,
            regions,
            prefer,
            dead_letter,
            late,
            lateness,
            idle,
            partitions,
            phases,
            ports,
            query,
            at,
        };
        Ok(clauses)
    }

    /// `PORT scored INTO scores`, of which the first word is read.
    fn port_into(&mut self) -> Read<PortInto> {
        let port = self.name("the name of a port")?;
        Ok(PortInto { port, stream: self.stream_after_into()? })
    }

    fn within(&mut self) -> Read<Time> {
        let (text, at) = self.text("a time, as '150 ms'")?;
        let time = text.parse::<Time>().map_err(|error| error.to_string());
        let time =
            time.and_then(|time| if time.as_micros() > 0 { Ok(time) } else { Err("it is no time at all".to_owned()) });
        if self.word("at") && !self.word("p95") {
            return Err(self.expected("P95", &["p95"]));
        }
        time.map_err(|error| {
            self.source.add("invalid-unit", at, error).expected("a time, as '150 ms'");
            Reported
        })
    }

    /// `OR SHED`, if it is there.
    fn or_shed(&mut self) -> Read<bool> {
        let is_there = self.word("or");
        if is_there && !self.word("shed") {
            return Err(self.expected("SHED", &["shed"]));
        }
        Ok(is_there)
    }

    /// `KEEP IN REGION 'eu', 'us'`, of which the first word is read.
    fn regions(&mut self) -> Read<Vec<String>> {
        for word in ["in", "region"] {
            if !self.word(word) {
                return Err(self.expected(&word.to_uppercase(), &[word]));
            }
        }
        let mut regions = Vec::new();
        loop {
            let (region, at) = self.text("a region, as 'eu'")?;
            if let Err(error) = check_name(&region) {
                self.source.add("invalid-name", at, error.to_string());
                return Err(Reported);
            }
            regions.push(region);
            if !self.sign(&Token::Comma) {
                return Ok(regions);
            }
        }
    }

    fn tier(&mut self) -> Read<Tier> {
        const TIERS: [&str; 4] = ["device", "edge", "region", "cloud"];
        let word = self.peek_word().map(str::to_lowercase).unwrap_or_default();
        let tier = match word.as_str() {
            "device" => Tier::Device,
            "edge" => Tier::Edge,
            "region" => Tier::Region,
            "cloud" => Tier::Cloud,
            _ => return Err(self.expected("device, edge, region or cloud", &TIERS)),
        };
        self.next += 1;
        Ok(tier)
    }

    fn stream_after_into(&mut self) -> Read<Name> {
        if !self.word("into") {
            return Err(self.expected("INTO", &["into"]));
        }
        self.name("the name of a stream")
    }

    /// The rest of the statement.
    fn query(&mut self) -> Read<(Box<Query>, Range<usize>)> {
        let tokens = self.tokens.get(self.next..).unwrap_or_default();
        let begin = self.here();
        if tokens.is_empty() || !self.peek_word().is_some_and(|word| word.eq_ignore_ascii_case("select")) {
            return Err(self.expected("SELECT", &["select"]));
        }
        let end = self.end();
        let mut parser =
            Parser::new(&FlowDialect).with_recursion_limit(NESTING_MAX).with_tokens_with_locations(tokens.to_vec());
        let parsed = parser.parse_query().and_then(|query| match parser.peek_token() {
            TokenWithSpan { token: Token::EOF, .. } => Ok(query),
            found => parser.expected("`;`", found),
        });
        parsed.map(|query| (query, begin.start..end)).map_err(|error| {
            self.syntax(&error);
            Reported
        })
    }

    /// Says where the grammar's parser stopped, and what it expected there.
    fn syntax(&mut self, error: &ParserError) {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
            ParserError::RecursionLimitExceeded => {
                let at = self.here();
                self.source
                    .add("too-deep", at, "the query nests too deeply")
                    .expected(format!("at most {NESTING_MAX} levels"));
                return;
            }
        };
        let (text, at) = self.place_in(text);
        let expected = text.strip_prefix("Expected: ").and_then(|text| text.rsplit_once(", found: "));
        match expected {
            Some((expected, "EOF")) => {
                self.source.add("syntax", at, "the statement ends here").expected(expected);
            }
            Some((expected, found)) => {
                self.source.add("syntax", at, format!("found `{found}`")).expected(expected);
            }
            None => {
                self.source.add("syntax", at, text.to_owned());
            }
        }
    }

    /// Takes the place off the end of a parser's message, `… at Line: 1, Column: 2`.
    fn place_in<'m>(&self, message: &'m str) -> (&'m str, Range<usize>) {
        let end = self.end();
        let Some((text, place)) = message.rsplit_once(" at Line: ") else { return (message, end..end) };
        let numbers =
            place.split_once(", Column: ").and_then(|(line, column)| Some((line.parse().ok()?, column.parse().ok()?)));
        let Some((line, column)) = numbers else { return (text, end..end) };
        let start = Location::new(line, column);
        let token = self.tokens.iter().find(|token| token.span.start == start);
        let span = token.map_or(Span::new(start, start), |token| token.span);
        (text, self.source.range(span))
    }

    fn name(&mut self, what: &str) -> Read<Name> {
        let at = self.here();
        let ident = self.ident(what)?;
        let text = fabric_name(&ident);
        if let Err(error) = check_name(&text) {
            self.source.add("invalid-name", at, error.to_string());
            return Err(Reported);
        }
        Ok(Name { text, at })
    }

    fn ident(&mut self, what: &str) -> Read<Ident> {
        match self.tokens.get(self.next) {
            Some(TokenWithSpan { token: Token::Word(word), span }) => {
                self.next += 1;
                Ok(word.clone().into_ident(*span))
            }
            _ => Err(self.expected(what, &[])),
        }
    }

    fn text(&mut self, what: &str) -> Read<(String, Range<usize>)> {
        match self.tokens.get(self.next) {
            Some(TokenWithSpan { token: Token::SingleQuotedString(text), span }) => {
                self.next += 1;
                Ok((text.clone(), self.source.range(*span)))
            }
            _ => Err(self.expected(what, &[])),
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let is_it = self.peek_word().is_some_and(|found| found.eq_ignore_ascii_case(word));
        self.next += usize::from(is_it);
        is_it
    }

    fn word_at(&self, place: usize) -> Option<String> {
        match self.tokens.get(place).map(|token| &token.token) {
            Some(Token::Word(word)) if word.quote_style.is_none() => Some(word.value.to_lowercase()),
            _ => None,
        }
    }

    fn peek_word(&self) -> Option<&'c str> {
        match self.tokens.get(self.next).map(|token| &token.token) {
            Some(Token::Word(word)) if word.quote_style.is_none() => Some(&word.value),
            _ => None,
        }
    }

    fn sign(&mut self, sign: &Token) -> bool {
        let is_it = self.tokens.get(self.next).is_some_and(|token| token.token == *sign);
        self.next += usize::from(is_it);
        is_it
    }

    /// Where the next token stands; the end of the statement if there is none.
    fn here(&self) -> Range<usize> {
        self.tokens.get(self.next).map_or_else(|| self.end()..self.end(), |token| self.source.range(token.span))
    }

    fn end(&self) -> usize {
        self.tokens.last().map_or(0, |token| self.source.range(token.span).end)
    }

    fn expected(&mut self, expected: &str, known: &[&'static str]) -> Reported {
        let at = self.here();
        match self.tokens.get(self.next).map(|token| token.token.to_string()) {
            Some(found) => {
                let known = known.iter().copied();
                let found = found.trim_matches('"').to_owned();
                let adding = self.source.add("syntax", at, format!("found `{found}`")).expected(expected);
                adding.nearest(&found, known);
            }
            None => {
                self.source.add("syntax", at, "the statement ends here").expected(expected);
            }
        }
        Reported
    }
}

/// The name of a stream or a flow: without quotes in lower case, and with hyphens for underscores, which names of the
/// fabric do not have.
pub(crate) fn fabric_name(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase().replace('_', "-"),
    }
}

/// The name of a column: without quotes in lower case.
pub(crate) fn column_name(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}
