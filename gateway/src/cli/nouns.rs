//! `boxgate admin user`, `organization`, `box` and so on: the calls of the HTTP API that only ask, change or delete rows.
//! What there is stands in one table, [`NOUNS`]; here it becomes a command line, calls and text.

mod catalog;
mod people;
mod rows;

use std::io::Read as _;

use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{
    Arg, ArgGroup, ArgMatches, Args as _, Command, FromArgMatches, Subcommand, value_parser,
};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::columns::aligned;
use super::connect::AskArgs;
use super::sure::SureArgs;
use super::{Failure, runtime, say};
use crate::client::Client;
use crate::client::error::printable;
use rows::NOUNS;

/// Rows that are asked for at once.
const PAGE: usize = 1000;

/// A kind of thing.
#[derive(Debug)]
struct Noun {
    name: &'static str,
    about: &'static str,
    verbs: &'static [Verb],
}

/// What can be done with it: one call.
#[derive(Debug, Clone, Copy)]
struct Verb {
    name: &'static str,
    about: &'static str,
    examples: &'static str,
    method: How,
    /// With the names that are given, in braces.
    path: &'static str,
    /// What is named, in this order: `ORG/BOX` is one word with two names.
    names: &'static [&'static str],
    /// Members of the body that are always said.
    said: &'static [(&'static str, Said)],
    /// Those that are said by a flag.
    options: &'static [Opt],
    /// What a person is asked about before it is done, where that destroys something.
    asks: Option<&'static str>,
    told: Told,
    /// Whether it needs no caller.
    anyone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Get,
    /// A listing page by page, by the last row's id.
    GetPages,
    Post,
    Put,
    Delete,
}

#[derive(Debug, Clone, Copy)]
enum Said {
    /// What was named so.
    Name(&'static str),
    Is(bool),
}

/// A flag, and which member of the body it becomes; a slash leads into an object.
#[derive(Debug, Clone, Copy)]
struct Opt {
    flag: &'static str,
    member: &'static str,
    kind: Kind,
    required: bool,
    help: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Number,
    YesNo,
    OneOf(&'static [&'static str]),
    /// The text that a file holds.
    File,
    /// The id of the organization of that name.
    Organization,
}

/// What people are told of the answer. In braces stand what was named, and members of the answer.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// All that is known of one thing.
    Sheet,
    /// Titles of columns, and where their cells are in a row.
    Table(&'static [(&'static str, &'static str)]),
    /// The same for rows that stand within the answer.
    TableWithin(&'static str, &'static [(&'static str, &'static str)]),
    Line(&'static str),
    /// And the member that is never told again.
    Secret(&'static str, &'static str),
}

/// A call that was typed.
#[derive(Debug)]
pub(super) struct NounCommand {
    noun: &'static Noun,
    verb: &'static Verb,
    ask: AskArgs,
    sure: Option<SureArgs>,
    matches: ArgMatches,
}

/// A name of the path, and what was given for it.
type Name = (String, String);

impl Noun {
    fn command(&'static self) -> Command {
        Command::new(self.name)
            .about(self.about)
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommands(self.verbs.iter().map(Verb::command))
    }
}

impl Verb {
    fn command(&'static self) -> Command {
        let mut command = Command::new(self.name).about(self.about);
        if !self.examples.is_empty() {
            command = command.after_help(self.examples);
        }
        for name in self.names {
            command = command.arg(Arg::new(*name).required(true).help(rows::meaning(name)));
        }
        command = command.args(self.options.iter().map(Opt::arg));
        if self.name == "update" {
            let flags = self.options.iter().map(|option| option.flag);
            let change = ArgGroup::new("change").args(flags);
            command = command.group(change.required(true).multiple(true));
        }
        if self.asks.is_some() {
            command = SureArgs::augment_args(command);
        }
        AskArgs::augment_args(command)
    }
}

impl Opt {
    fn arg(&self) -> Arg {
        let arg = Arg::new(self.flag).long(self.flag).help(self.help);
        let arg = arg.required(self.required);
        match self.kind {
            Kind::Text => arg.value_name("TEXT"),
            Kind::File => arg.value_name("FILE"),
            Kind::Organization => arg.value_name("NAME"),
            Kind::Number => arg.value_name("N").value_parser(value_parser!(u64)),
            Kind::YesNo => arg.value_name("BOOL").value_parser(value_parser!(bool)),
            Kind::OneOf(words) => {
                let words = PossibleValuesParser::new(words.iter().copied());
                arg.value_name("WORD").value_parser(words)
            }
        }
    }

    /// What was given by it.
    async fn value(&self, given: &ArgMatches, client: &Client) -> Result<Option<Value>, Failure> {
        match self.kind {
            Kind::Number => return Ok(given.get_one::<u64>(self.flag).map(|n| json!(n))),
            Kind::YesNo => return Ok(given.get_one::<bool>(self.flag).map(|is| json!(is))),
            _ => {}
        }
        let Some(text) = given.get_one::<String>(self.flag) else {
            return Ok(None);
        };
        Ok(Some(match self.kind {
            Kind::File => json!(held(self.flag, text)?),
            Kind::Organization => {
                let place = format!("/api/organization/{}", segment("NAME", text)?);
                client.call(Method::GET, &place, None).await?["id"].clone()
            }
            _ => json!(text),
        }))
    }
}

impl FromArgMatches for NounCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::raw(ErrorKind::MissingSubcommand, "no such command");
        let (noun, matches) = matches.subcommand().ok_or_else(missing)?;
        let (verb, matches) = matches.subcommand().ok_or_else(missing)?;
        let noun = NOUNS.iter().find(|known| known.name == noun);
        let noun = noun.ok_or_else(missing)?;
        let verb = noun.verbs.iter().find(|known| known.name == verb);
        let verb = verb.ok_or_else(missing)?;
        let sure = verb.asks.map(|_deed| SureArgs::from_arg_matches(matches));
        Ok(Self {
            noun,
            verb,
            ask: AskArgs::from_arg_matches(matches)?,
            sure: sure.transpose()?,
            matches: matches.clone(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Subcommand for NounCommand {
    fn augment_subcommands(command: Command) -> Command {
        command.subcommands(NOUNS.iter().map(Noun::command))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        NOUNS.iter().any(|noun| noun.name == name)
    }
}

pub(super) fn noun(command: &NounCommand) -> Result<(), Failure> {
    let NounCommand {
        verb, ask, sure, ..
    } = command;
    let names = command.names()?;
    let path = command.path(&names)?;
    let client = if verb.anyone {
        ask.connect.client_of_anyone()?
    } else {
        ask.connect.client()?
    };
    let answer = runtime()?.block_on(async {
        if let (Some(deed), Some(sure)) = (verb.asks, sure) {
            let nothing = async { Ok(String::new()) };
            sure.ask(&filled(deed, &names), nothing).await?;
        }
        if verb.method == How::GetPages {
            return pages(&client, &path).await;
        }
        let wish = command.wish(&client, &names).await?;
        let method = verb.method.as_http();
        Ok(client.call(method, &path, wish.as_ref()).await?)
    })?;
    command.tell(names, &answer);
    Ok(())
}

impl How {
    fn as_http(self) -> Method {
        match self {
            Self::Get | Self::GetPages => Method::GET,
            Self::Post => Method::POST,
            Self::Put => Method::PUT,
            Self::Delete => Method::DELETE,
        }
    }
}

impl NounCommand {
    /// What was named, by the names that the path has for it.
    fn names(&self) -> Result<Vec<Name>, Failure> {
        let mut names = Vec::new();
        for name in self.verb.names {
            let given = self.matches.get_one::<String>(name);
            let given = given.map(String::as_str).unwrap_or_default();
            let wrong = || Failure::Usage(format!("{given:?} is no {name}"));
            match name.split_once('/') {
                None => names.push((name.to_lowercase(), given.to_owned())),
                Some((first, second)) => {
                    let (one, other) = given.split_once('/').ok_or_else(wrong)?;
                    names.push((first.to_lowercase(), one.to_owned()));
                    names.push((second.to_lowercase(), other.to_owned()));
                }
            }
        }
        Ok(names)
    }

    fn path(&self, names: &[Name]) -> Result<String, Failure> {
        let mut path = self.verb.path.to_owned();
        for (name, value) in names {
            path = path.replace(&format!("{{{name}}}"), &segment(name, value)?);
        }
        Ok(path)
    }

    /// The body of the call, if it has one.
    async fn wish(&self, client: &Client, names: &[Name]) -> Result<Option<Value>, Failure> {
        let verb = self.verb;
        if verb.said.is_empty() && verb.options.is_empty() {
            return Ok(None);
        }
        let mut wish = Map::new();
        for (member, said) in verb.said {
            let value = match said {
                Said::Is(is) => json!(is),
                Said::Name(name) => {
                    let named = names.iter().find(|(known, _)| known == name);
                    json!(named.map(|(_, value)| value))
                }
            };
            put(&mut wish, member, value);
        }
        for option in verb.options {
            if let Some(value) = option.value(&self.matches, client).await? {
                put(&mut wish, option.member, value);
            }
        }
        Ok(Some(Value::Object(wish)))
    }

    fn tell(&self, mut names: Vec<Name>, answer: &Value) {
        let answer = if let Told::TableWithin(place, _) = self.verb.told {
            answer.pointer(place).unwrap_or(&Value::Null)
        } else {
            answer
        };
        if self.ask.json {
            return say(&answer.to_string());
        }
        let members = answer.as_object().into_iter().flatten();
        names.extend(members.map(|(name, value)| (name.clone(), cell(Some(value)))));
        match self.verb.told {
            Told::Sheet => say(sheet(answer).trim_end()),
            Told::Table(columns) | Told::TableWithin(_, columns) => {
                let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
                if rows.is_empty() {
                    say(&format!(
                        "There is no {}.",
                        self.noun.name.replace('-', " ")
                    ));
                } else {
                    say(table(rows, columns).trim_end());
                }
            }
            Told::Line(line) => say(&filled(line, &names)),
            Told::Secret(line, member) => {
                say(&filled(line, &names));
                let secret = answer[member].as_str().unwrap_or_default();
                say(&format!("Shown this once: {secret}"));
            }
        }
    }
}

/// All rows of a listing.
async fn pages(client: &Client, path: &str) -> Result<Value, Failure> {
    let mut rows: Vec<Value> = Vec::new();
    loop {
        let after = rows.last().map_or(Value::from(0), |row| row["id"].clone());
        let place = format!("{path}?limit={PAGE}&after={after}");
        let page = client.call(Method::GET, &place, None).await?;
        match page {
            Value::Array(page) if !page.is_empty() => rows.extend(page),
            _ => return Ok(Value::Array(rows)),
        }
    }
}

/// A name as one step of a path. What has no name, or one that leads up, would be another call: that on all of them.
fn segment(name: &str, value: &str) -> Result<String, Failure> {
    if matches!(value, "" | "." | "..") {
        let text = format!("{value:?} is no {}", name.to_uppercase());
        return Err(Failure::Usage(text));
    }
    Ok(utf8_percent_encode(value, NON_ALPHANUMERIC).to_string())
}

/// The text of a file without the end of its line; `-` is standard input.
fn held(flag: &str, path: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == "-" {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(path).map(|read| text = read)
    };
    read.map_err(|e| Failure::Usage(format!("--{flag} {path}: {e}")))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn put(object: &mut Map<String, Value>, member: &str, value: Value) {
    match member.split_once('/') {
        None => {
            object.insert(member.to_owned(), value);
        }
        Some((outer, inner)) => {
            let within = object.entry(outer).or_insert_with(|| json!({}));
            if let Value::Object(within) = within {
                put(within, inner, value);
            }
        }
    }
}

fn filled(text: &str, names: &[Name]) -> String {
    names.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{name}}}"), &printable(value))
    })
}

fn table(rows: &[Value], columns: &[(&str, &str)]) -> String {
    let titles = columns.iter().map(|(title, _)| (*title).to_owned());
    let mut lines: Vec<Vec<String>> = vec![titles.collect()];
    for row in rows {
        let cells = columns.iter().map(|(_, place)| cell(row.pointer(place)));
        lines.push(cells.collect());
    }
    aligned(&lines)
}

/// A line for each member that says something.
fn sheet(thing: &Value) -> String {
    let members = thing.as_object().into_iter().flatten();
    let said = members.filter(|(_, value)| !value.is_null());
    let lines: Vec<[String; 2]> = said
        .map(|(name, value)| [name.clone(), cell(Some(value))])
        .collect();
    aligned(&lines)
}

/// A value in a few words: texts as they are, how many there are of other things, and the name of what has one.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "no".to_owned(),
        Some(Value::String(text)) => printable(text),
        Some(Value::Array(rows)) => {
            let texts: Option<Vec<&str>> = rows.iter().map(Value::as_str).collect();
            match texts {
                Some(texts) if !texts.is_empty() => printable(&texts.join(",")),
                _ => rows.len().to_string(),
            }
        }
        Some(Value::Object(thing)) => {
            let names = ["name", "username", "version"];
            let name = names.iter().find_map(|name| thing.get(*name)?.as_str());
            name.map_or_else(|| "-".to_owned(), printable)
        }
        Some(number) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::ROUTES;

    #[test]
    fn each_row_is_a_call_of_the_api() {
        for verb in NOUNS.iter().flat_map(|noun| noun.verbs) {
            let steps =
                |path: &'static str| path.split('/').map(|step| (step, step.starts_with('{')));
            let same = |route: &'static str| {
                steps(route).count() == steps(verb.path).count()
                    && steps(route)
                        .zip(steps(verb.path))
                        .all(|((a, named), (b, called))| named == called && (named || a == b))
            };
            let method = verb.method.as_http();
            let known = ROUTES
                .iter()
                .any(|row| row.method == method && same(row.path));
            assert!(known, "{method} {}", verb.path);
            let names = verb.names.iter().flat_map(|names| names.split('/'));
            let names: Vec<String> = names.map(str::to_lowercase).collect();
            for (step, is_name) in steps(verb.path) {
                let name = step.trim_matches(['{', '}']);
                assert!(
                    !is_name || names.iter().any(|known| known == name),
                    "{step}"
                );
            }
            assert!(
                verb.method != How::Delete || verb.asks.is_some(),
                "{}",
                verb.path
            );
        }
    }

    #[test]
    fn a_name_never_becomes_another_path() {
        for text in ["", ".", ".."] {
            assert!(segment("box", text).is_err(), "{text:?}");
        }
        assert_eq!(segment("box", "a/b").unwrap(), "a%2Fb");
        assert_eq!(segment("version", "1.0").unwrap(), "1%2E0");
    }

    #[test]
    fn tables_say_little_of_much_and_steer_no_terminal() {
        let rows = [
            json!({ "name": "a\u{1b}[2J", "in": { "name": "acme" }, "all": [1, 2], "is": ["b", "c"] }),
        ];
        let columns = [
            ("NAME", "/name"),
            ("IN", "/in"),
            ("ALL", "/all"),
            ("IS", "/is"),
            ("NO", "/no"),
        ];
        let text = table(&rows, &columns);
        assert_eq!(
            text,
            "NAME   IN    ALL  IS   NO\na [2J  acme  2    b,c  -\n"
        );
    }

    #[test]
    fn members_of_objects_are_put_there() {
        let mut wish = Map::new();
        put(&mut wish, "user/login", json!("ann"));
        put(&mut wish, "user/password", json!("x"));
        put(&mut wish, "role", json!("user"));
        let want = json!({ "user": { "login": "ann", "password": "x" }, "role": "user" });
        assert_eq!(Value::Object(wish), want);
    }
}
