//! The body of a hook as a tree of its own. The interpreter lets what stopped a script forget where that was at the end of each
//! function; what is evaluated like this ends no function, so that the place within the hook is known.

use rhai::{
    AST, ASTNode, Dynamic, Engine, EvalAltResult, Module, Position, Scope, ScriptFuncDef, Stmt,
};

use crate::facts::Text;

/// What one hook does.
#[derive(Debug)]
pub(crate) struct Body {
    tree: AST,
    parameters: Vec<Text>,
    /// Where it begins.
    pub(crate) begin: Position,
    /// Where its last statement begins.
    pub(crate) last: Position,
}

impl Body {
    /// Of a function of a file.
    pub(crate) fn of(function: &ScriptFuncDef, file: &AST) -> Self {
        let statements = statements(function);
        let begin = function.body.start_position();
        let last = statements.last().map_or(begin, Stmt::position);
        let mut tree = AST::new(statements, file.shared_lib().clone());
        tree.set_source(file.source().unwrap_or_default());
        Self {
            tree,
            parameters: function.params.iter().cloned().collect(),
            begin,
            last,
        }
    }

    /// Does it.
    pub(crate) fn run(
        &self,
        engine: &Engine,
        arguments: Vec<Dynamic>,
    ) -> Result<Dynamic, Box<EvalAltResult>> {
        let mut scope = Scope::new();
        for (name, argument) in self.parameters.iter().zip(arguments) {
            scope.push_dynamic(name.clone(), argument);
        }
        engine.eval_ast_with_scope(&mut scope, &self.tree)
    }
}

/// The statements of a function. The type of a body has no name outside of the interpreter, so its own walk hands them out.
pub(crate) fn statements(function: &ScriptFuncDef) -> Vec<Stmt> {
    let mut module = Module::new();
    module.set_script_fn(function.clone());
    let alone = AST::new(Vec::<Stmt>::new(), module);
    let mut statements = Vec::new();
    alone.walk(&mut |path| {
        if let [ASTNode::Stmt(statement)] = path {
            statements.push((*statement).clone());
        }
        true
    });
    statements
}
