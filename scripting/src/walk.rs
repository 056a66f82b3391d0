//! Our own walk of the syntax tree. The interpreter's strict mode refuses top-level constants, and knows neither
//! hooks nor lanes; so names, captures, hooks and what a fast hook can reach are looked at here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rhai::{AST, Expr, FlowControl, FnCallExpr, FnPtr, Position, ScriptFuncDef, Stmt, StmtBlock};

use crate::api::REMOVED;
use crate::body::statements;
use crate::engine::{Known, spaces};
use crate::error::Finding;
use crate::hook::{HOOKS, Hook, Lane, Row, nearest};

/// One file with its tree.
pub(crate) struct Source<'a> {
    pub(crate) file: &'a str,
    pub(crate) text: &'a str,
    pub(crate) ast: &'a AST,
    /// Import aliases and the file that each leads to.
    pub(crate) imports: BTreeMap<String, String>,
}

/// A function of a file.
type Id = (String, String, usize);

/// What a function calls.
#[derive(Debug, Default)]
struct Calls {
    own: BTreeSet<(Id, usize)>,
    work_only: Vec<(String, usize)>,
}

/// Everything that is known while the walk goes on.
pub(crate) struct Walk<'a> {
    pub(crate) fast: &'a Known,
    pub(crate) work: &'a Known,
    pub(crate) sources: &'a [Source<'a>],
    /// The hooks that are called.
    pub(crate) calls: &'a [Hook],
    /// Whether the plugin is a provider, so that the functions of one are hooks in it.
    pub(crate) provider: bool,
    /// Further functions without a namespace: those of unit tests.
    pub(crate) spaces: &'a [&'a str],
}

/// What the walk found.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub(crate) findings: Vec<Finding>,
    /// The hooks that the main file defines.
    pub(crate) hooks: Vec<Hook>,
    calls: BTreeMap<Id, Calls>,
    used: BTreeSet<Id>,
}

impl Walk<'_> {
    /// Walks all files; the first is the main one.
    pub(crate) fn run(&self) -> Walked {
        let mut walked = Walked::default();
        for source in self.sources {
            let mut file = File::new(self, source);
            file.top_level();
            for function in source.ast.iter_fn_def() {
                file.function(function);
            }
            walked.findings.append(&mut file.findings);
            walked.calls.append(&mut file.calls);
            walked.used.append(&mut file.used);
        }
        if let Some(main) = self.sources.first() {
            hooks(main, self, &mut walked);
            dead(self, &mut walked);
        }
        walked
            .findings
            .sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        walked.findings.dedup();
        walked
    }

    /// The rows of what is a hook in this plugin.
    fn hooks(&self) -> impl Iterator<Item = &'static Row> {
        let provider = self.provider;
        HOOKS.iter().filter(move |row| provider || !row.of_provider)
    }
}

impl Walked {
    /// Refuses fast hooks that can reach what may wait, naming the way there.
    pub(crate) fn lanes(&mut self, main: &Source<'_>, lane: impl Fn(Hook) -> Lane) {
        for hook in self.hooks.clone() {
            if lane(hook) == Lane::Work {
                continue;
            }
            let row = hook.row();
            let start = (
                main.file.to_owned(),
                row.name.to_owned(),
                row.parameters.len(),
            );
            let mut came_from: BTreeMap<Id, Option<Id>> = BTreeMap::from([(start.clone(), None)]);
            let mut queue = VecDeque::from([start]);
            while let Some(id) = queue.pop_front() {
                let Some(calls) = self.calls.get(&id) else {
                    continue;
                };
                if let Some((name, line)) = calls.work_only.first() {
                    let mut path = vec![format!("{name} at {}:{line}", id.0)];
                    let mut at = Some(id.clone());
                    while let Some(step) = at {
                        path.push(step.1.clone());
                        at = came_from.get(&step).cloned().flatten();
                    }
                    path.reverse();
                    let definition = main
                        .ast
                        .iter_fn_def()
                        .find(|f| f.name == row.name)
                        .map_or(Position::NONE, |f| f.body.start_position());
                    self.findings.push(
                        Finding::at(
                            main.file,
                            main.text,
                            definition,
                            format!(
                                "{} runs in the fast lane and can reach {name}, which may wait: {}",
                                row.name,
                                path.join(" -> ")
                            ),
                        )
                        .hint(format!(
                            "move the hook: [hooks.{}] lane = \"work\" in plugin.toml",
                            row.name
                        )),
                    );
                    break;
                }
                for (next, _) in &calls.own {
                    if !came_from.contains_key(next) {
                        came_from.insert(next.clone(), Some(id.clone()));
                        queue.push_back(next.clone());
                    }
                }
            }
        }
    }
}

/// Which hooks there are, and which functions only look like one.
fn hooks(main: &Source<'_>, walk: &Walk<'_>, walked: &mut Walked) {
    for function in main.ast.iter_fn_def() {
        let name = function.name.as_str();
        let at = function.body.start_position();
        let row = walk.hooks().find(|row| row.name == name);
        match row {
            Some(row) if row.parameters.len() == function.params.len() => {
                if walk.calls.contains(&row.hook) {
                    walked.hooks.push(row.hook);
                } else {
                    walked.findings.push(Finding::at(
                        main.file,
                        main.text,
                        at,
                        format!("the hook {name} is not called by this version of boxgate"),
                    ));
                }
            }
            Some(row) => walked.findings.push(
                Finding::at(
                    main.file,
                    main.text,
                    at,
                    format!(
                        "the hook {name} takes {} parameters, this one {}",
                        row.parameters.len(),
                        function.params.len()
                    ),
                )
                .hint(format!("write: fn {}", row.signature())),
            ),
            None if name.starts_with("on_") => {
                let finding =
                    Finding::at(main.file, main.text, at, format!("there is no hook {name}"));
                let near = nearest(name, walk.hooks().map(|row| row.name));
                walked.findings.push(match near {
                    Some(near) => finding.hint(format!("did you mean {near}?")),
                    None => finding.hint("a function that is no hook must not begin with on_"),
                });
            }
            None => {}
        }
    }
    walked.hooks.sort();
    walked.hooks.dedup();
}

/// Warns of functions that nothing calls.
fn dead(walk: &Walk<'_>, walked: &mut Walked) {
    for (index, source) in walk.sources.iter().enumerate() {
        for function in source.ast.iter_fn_def() {
            let name = function.name.as_str();
            let id = (
                source.file.to_owned(),
                name.to_owned(),
                function.params.len(),
            );
            let entry = index == 0 && walk.hooks().any(|row| row.name == name);
            let anonymous = name.starts_with("anon$");
            let test = source.file.starts_with("tests/");
            if !entry
                && !anonymous
                && !test
                && !name.starts_with("on_")
                && !walked.used.contains(&id)
            {
                let at = function.body.start_position();
                let message = format!("the function {name} is never called");
                let finding = Finding::at(source.file, source.text, at, message).warning();
                let meant = name.to_lowercase();
                let hooks = HOOKS.iter().map(|row| row.name);
                let near = nearest(&meant, hooks).filter(|_| index == 0);
                walked.findings.push(match near {
                    Some(near) => finding.hint(format!("did you mean the hook {near}?")),
                    None => finding,
                });
            }
        }
    }
}

/// The walk through one file.
struct File<'a> {
    walk: &'a Walk<'a>,
    source: &'a Source<'a>,
    constants: BTreeSet<String>,
    variables: BTreeSet<String>,
    functions: BTreeSet<(String, usize)>,
    /// Names of map members, behind which a function may stand.
    members: BTreeSet<String>,
    scope: Vec<String>,
    within: Id,
    top: bool,
    anonymous: bool,
    findings: Vec<Finding>,
    calls: BTreeMap<Id, Calls>,
    used: BTreeSet<Id>,
}

impl<'a> File<'a> {
    fn new(walk: &'a Walk<'a>, source: &'a Source<'a>) -> Self {
        let mut constants = BTreeSet::new();
        let mut variables = BTreeSet::new();
        for statement in source.ast.statements() {
            if let Stmt::Var(var, flags, _) = statement {
                let name = var.0.name.to_string();
                if flags.contains(rhai::ASTFlags::CONSTANT) {
                    constants.insert(name);
                } else {
                    variables.insert(name);
                }
            }
        }
        let functions = source
            .ast
            .iter_fn_def()
            .map(|f| (f.name.to_string(), f.params.len()))
            .collect();
        let mut file = Self {
            walk,
            source,
            constants,
            variables,
            functions,
            members: BTreeSet::new(),
            scope: Vec::new(),
            within: (source.file.to_owned(), String::new(), 0),
            top: true,
            anonymous: false,
            findings: Vec::new(),
            calls: BTreeMap::new(),
            used: BTreeSet::new(),
        };
        file.gather_members();
        file
    }

    fn gather_members(&mut self) {
        let mut members = BTreeSet::new();
        self.source.ast.walk(&mut |path| {
            if let Some(rhai::ASTNode::Expr(Expr::Map(map, _))) = path.last() {
                members.extend(map.0.iter().map(|(name, _)| name.name.to_string()));
            }
            if let Some(rhai::ASTNode::Expr(Expr::Property(property, _))) = path.last() {
                members.insert(property.2.to_string());
            }
            true
        });
        self.members = members;
    }

    fn refuse(&mut self, at: Position, message: impl Into<String>) -> &mut Finding {
        let finding = Finding::at(self.source.file, self.source.text, at, message);
        self.findings.push(finding);
        self.findings.last_mut().expect("it was just pushed")
    }

    fn top_level(&mut self) {
        for statement in self.source.ast.statements() {
            self.statement(statement);
        }
        self.scope.clear();
    }

    fn function(&mut self, function: &ScriptFuncDef) {
        self.top = false;
        self.anonymous = function.name.starts_with("anon$");
        self.within = (
            self.source.file.to_owned(),
            function.name.to_string(),
            function.params.len(),
        );
        self.scope = function.params.iter().map(ToString::to_string).collect();
        for statement in statements(function) {
            self.statement(&statement);
        }
        self.scope.clear();
    }

    fn block(&mut self, block: &StmtBlock) {
        let depth = self.scope.len();
        for statement in block.iter() {
            self.statement(statement);
        }
        self.scope.truncate(depth);
    }

    fn statement(&mut self, statement: &Stmt) {
        match statement {
            Stmt::If(flow, _) | Stmt::While(flow, _) => self.flow(flow),
            Stmt::Do(flow, ..) => {
                self.block(&flow.body);
                self.expression(&flow.expr);
            }
            Stmt::For(parts, _) => {
                let (item, counter, flow) = &**parts;
                self.expression(&flow.expr);
                let depth = self.scope.len();
                self.scope.push(item.name.to_string());
                self.scope
                    .extend(counter.iter().map(|c| c.name.to_string()));
                self.block(&flow.body);
                self.scope.truncate(depth);
            }
            Stmt::TryCatch(flow, _) => {
                self.block(&flow.body);
                let depth = self.scope.len();
                if let Expr::Variable(name, ..) = &flow.expr {
                    self.scope.push(name.1.to_string());
                }
                self.block(&flow.branch);
                self.scope.truncate(depth);
            }
            Stmt::Switch(parts, _) => {
                self.expression(&parts.0);
                for case in &parts.1.expressions {
                    self.expression(&case.lhs);
                    self.expression(&case.rhs);
                }
            }
            Stmt::Var(var, ..) => {
                self.expression(&var.1);
                self.scope.push(var.0.name.to_string());
            }
            Stmt::Assignment(parts) => {
                self.expression(&parts.1.lhs);
                self.expression(&parts.1.rhs);
            }
            Stmt::FnCall(call, at) => self.call(call, *at, false),
            Stmt::Block(block) => self.block(block),
            Stmt::Expr(expression) => self.expression(expression),
            Stmt::BreakLoop(value, ..) | Stmt::Return(value, ..) => {
                if let Some(value) = value {
                    self.expression(value);
                }
            }
            Stmt::Import(_, at) if !self.top => {
                self.refuse(
                    *at,
                    "import stands at the top of a file, not within a function",
                );
            }
            Stmt::Noop(_) | Stmt::Export(..) | Stmt::Import(..) => {}
            _ => {
                let at = statement.position();
                self.refuse(at, "this kind of statement is not allowed");
            }
        }
    }

    fn flow(&mut self, flow: &FlowControl) {
        self.expression(&flow.expr);
        self.block(&flow.body);
        self.block(&flow.branch);
    }

    fn expression(&mut self, expression: &Expr) {
        match expression {
            Expr::DynamicConstant(value, at) => {
                if let Some(pointer) = value.read_lock::<FnPtr>() {
                    self.pointer(&pointer, *at);
                }
            }
            Expr::InterpolatedString(parts, _) | Expr::Array(parts, _) => {
                for part in parts {
                    self.expression(part);
                }
            }
            Expr::Map(map, _) => {
                for (_, value) in &map.0 {
                    self.expression(value);
                }
            }
            Expr::Variable(variable, _, at) => self.variable(&variable.1, &variable.2, *at),
            Expr::MethodCall(call, at) => self.call(call, *at, true),
            Expr::FnCall(call, at) => self.call(call, *at, false),
            Expr::Stmt(block) => self.block(block),
            Expr::Dot(parts, ..) | Expr::Index(parts, ..) => {
                self.expression(&parts.lhs);
                self.expression(&parts.rhs);
            }
            Expr::And(parts, _) | Expr::Or(parts, _) | Expr::Coalesce(parts, _) => {
                for part in parts.iter() {
                    self.expression(part);
                }
            }
            Expr::ThisPtr(_)
            | Expr::Property(..)
            | Expr::Unit(_)
            | Expr::BoolConstant(..)
            | Expr::IntegerConstant(..)
            | Expr::FloatConstant(..)
            | Expr::CharConstant(..)
            | Expr::StringConstant(..) => {}
            _ => {
                let at = expression.position();
                self.refuse(at, "this kind of expression is not allowed");
            }
        }
    }

    /// A function that is passed on is taken to be called.
    fn pointer(&mut self, pointer: &FnPtr, at: Position) {
        let own = self
            .functions
            .iter()
            .filter(|(name, _)| name == pointer.fn_name());
        let own: Vec<_> = own.cloned().collect();
        for (name, arity) in own {
            self.calls_own(self.source.file.to_owned(), name, arity, at);
        }
    }

    fn calls_own(&mut self, file: String, name: String, arity: usize, at: Position) {
        let id = (file, name, arity);
        self.used.insert(id.clone());
        let calls = self.calls.entry(self.within.clone()).or_default();
        calls.own.insert((id, at.line().unwrap_or(0)));
    }

    fn variable(&mut self, name: &str, space: &rhai::Namespace, at: Position) {
        if !space.is_empty() {
            let root = space.root();
            if !self.source.imports.contains_key(root) && !self.is_space(root) {
                self.refuse(at, format!("there is no module {root}"));
            }
            return;
        }
        if self.scope.iter().rev().any(|known| known == name) || self.constants.contains(name) {
            return;
        }
        let own: Vec<_> = self
            .functions
            .iter()
            .filter(|(f, _)| f == name)
            .cloned()
            .collect();
        if !own.is_empty() {
            for (name, arity) in own {
                self.calls_own(self.source.file.to_owned(), name, arity, at);
            }
            return;
        }
        let anonymous = self.anonymous;
        let top_let = self.variables.contains(name);
        let known: Vec<String> = self.scope.iter().chain(&self.constants).cloned().collect();
        let near = nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
        let finding = self.refuse(at, format!("there is no variable {name}"));
        finding.hint = if top_let {
            Some(format!(
                "functions see constants only; write: const {name} = ..."
            ))
        } else if anonymous {
            Some(format!(
                "a closure cannot use variables from outside of it; pass {name} as a parameter, or write a for loop"
            ))
        } else {
            near.map(|near| format!("did you mean {near}?"))
        };
    }

    fn is_space(&self, name: &str) -> bool {
        spaces(Lane::Work).any(|space| space == name) || self.walk.spaces.contains(&name)
    }

    fn call(&mut self, call: &FnCallExpr, at: Position, method: bool) {
        for argument in &call.args {
            self.expression(argument);
        }
        let name = call.name.as_str();
        let arity = call.args.len() + usize::from(method);
        if call.namespace.is_empty() {
            self.plain_call(name, arity, at, method, call.is_operator_call());
        } else {
            let root = call.namespace.root().to_owned();
            self.spaced_call(&root, name, arity, at);
        }
    }

    fn plain_call(&mut self, name: &str, arity: usize, at: Position, method: bool, operator: bool) {
        if operator || matches!(name, "call" | "type_of" | "is_def_var" | "is_def_fn") {
            return;
        }
        // A method of a script's own has the object as `this`, or as its first parameter.
        let mut own = vec![(name.to_owned(), arity)];
        if method {
            own.push((name.to_owned(), arity - 1));
        }
        let found = own.into_iter().find(|id| self.functions.contains(id));
        if let Some((name, arity)) = found {
            self.calls_own(self.source.file.to_owned(), name, arity, at);
            return;
        }
        if let Some((_, instead)) = REMOVED.iter().find(|(removed, _)| *removed == name) {
            let finding = self.refuse(at, format!("{name} is not there"));
            finding.hint = Some((*instead).to_owned());
            return;
        }
        let wanted = (String::new(), name.to_owned(), arity);
        if self.walk.fast.contains(&wanted) {
            return;
        }
        if self.walk.work.contains(&wanted) {
            self.work_only(name.to_owned(), at);
            return;
        }
        // A closure in a variable or a member is called like a function.
        if self.scope.iter().any(|known| known == name) || (method && self.members.contains(name)) {
            return;
        }
        let arities: BTreeSet<usize> = self
            .walk
            .work
            .iter()
            .filter(|(space, known, _)| space.is_empty() && known == name)
            .map(|(_, _, arity)| *arity)
            .chain(
                self.functions
                    .iter()
                    .filter(|(f, _)| f == name)
                    .map(|(_, a)| *a),
            )
            .collect();
        let given = arity - usize::from(method);
        if arities.is_empty() {
            let own: Vec<String> = self
                .functions
                .iter()
                .map(|(name, _)| name.clone())
                .collect();
            let names = self.walk.work.iter().filter(|(space, ..)| space.is_empty());
            let names = names.map(|(_, name, _)| name.as_str());
            let near = nearest(name, names.chain(own.iter().map(String::as_str)));
            let near = near.map(str::to_owned);
            let finding = self.refuse(at, format!("there is no function {name}"));
            finding.hint = near.map(|near| format!("did you mean {near}?"));
        } else {
            let takes: Vec<String> = arities
                .iter()
                .map(|a| (a.saturating_sub(usize::from(method))).to_string())
                .collect();
            self.refuse(
                at,
                format!(
                    "{name} takes {} parameters, {given} are given",
                    takes.join(" or ")
                ),
            );
        }
    }

    fn spaced_call(&mut self, space: &str, name: &str, arity: usize, at: Position) {
        if let Some(file) = self.source.imports.get(space).cloned() {
            let other = self.walk.sources.iter().find(|s| s.file == file);
            let found = other.is_some_and(|other| {
                let mut functions = other.ast.iter_fn_def();
                functions.any(|f| f.name == name && f.params.len() == arity)
            });
            if found {
                self.calls_own(file, name.to_owned(), arity, at);
            } else {
                let names: Vec<String> = other
                    .map(|other| {
                        other
                            .ast
                            .iter_fn_def()
                            .map(|f| f.name.to_string())
                            .collect()
                    })
                    .unwrap_or_default();
                let near = nearest(name, names.iter().map(String::as_str)).map(str::to_owned);
                let text = format!("{file} has no function {name} with {arity} parameters");
                self.refuse(at, text).hint = near.map(|near| format!("did you mean {near}?"));
            }
            return;
        }
        if self.walk.spaces.contains(&space) {
            return;
        }
        let wanted = (space.to_owned(), name.to_owned(), arity);
        if self.walk.fast.contains(&wanted) {
            return;
        }
        if self.walk.work.contains(&wanted) {
            self.work_only(format!("{space}::{name}"), at);
            return;
        }
        if !self.is_space(space) {
            let near = nearest(space, spaces(Lane::Work)).map(str::to_owned);
            let finding = self.refuse(at, format!("there is no module {space}"));
            finding.hint = near.map(|near| format!("did you mean {near}?"));
            return;
        }
        let within: Vec<&(String, String, usize)> =
            self.walk.work.iter().filter(|(s, ..)| s == space).collect();
        let arities: BTreeSet<String> = within
            .iter()
            .filter(|(_, known, _)| known == name)
            .map(|(_, _, a)| a.to_string())
            .collect();
        if arities.is_empty() {
            let near = nearest(name, within.iter().map(|(_, n, _)| n.as_str())).map(str::to_owned);
            let finding = self.refuse(at, format!("there is no function {space}::{name}"));
            finding.hint = near.map(|near| format!("did you mean {space}::{near}?"));
        } else {
            let takes: Vec<String> = arities.into_iter().collect();
            let text = format!(
                "{space}::{name} takes {} parameters, {arity} are given",
                takes.join(" or ")
            );
            self.refuse(at, text);
        }
    }

    fn work_only(&mut self, name: String, at: Position) {
        let calls = self.calls.entry(self.within.clone()).or_default();
        calls.work_only.push((name, at.line().unwrap_or(0)));
    }
}
