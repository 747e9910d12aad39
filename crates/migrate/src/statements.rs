//! The statements that make a schema on the server, in the order in which they are run.

use lifeboat_postgres::{identifier, literal};

use crate::expression::{self, Scope, Type, kind_of};
use crate::function;
use crate::keys::NOT_VALID;
use crate::mapping::Orphans;
use crate::names::{NameStyle, Names, Room};
use crate::orphans::OrphanKey;
use crate::plan::{Options, TablePlan};
use crate::routine;
use crate::schema::{Collation, ForeignKey, Index, IndexKey, LeftOut, Origin, Schema, Table};
use crate::target::Target;
use crate::view;

/// A key of a b-tree has no more bytes.
const KEY_BYTES_MAX: usize = 2_600;

/// All statements. Names in them are without a schema: the search path says which.
#[derive(Clone, Debug, Default)]
pub(crate) struct Statements {
    /// For each table, in the order of the schema.
    pub(crate) tables: Vec<TableStatements>,
    pub(crate) views: Vec<Step>,
    pub(crate) triggers: Vec<Step>,
    /// What has no counterpart, or none that is certain.
    pub(crate) untranslated: Vec<LeftOut>,
    /// What is there, and not quite what it was.
    pub(crate) notes: Vec<String>,
}

/// The statements of one table.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableStatements {
    pub(crate) create: String,
    /// Indexes, after the rows: they are built beside each other.
    pub(crate) indexes: Vec<Step>,
    /// Keys that use them and checks, after the indexes.
    pub(crate) after: Vec<Step>,
    /// Foreign keys, when the tables that they refer to are finished, too.
    pub(crate) foreign_keys: Vec<Step>,
    /// The places of those tables.
    pub(crate) parents: Vec<usize>,
    /// The ids that were given out: run last.
    pub(crate) sequence: Option<String>,
}

/// A statement, and what it is for.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) what: String,
    pub(crate) sql: String,
    /// What SQLite had: it is listed where the server refuses ours.
    pub(crate) original: String,
    /// Whether the migration fails where the server refuses it.
    pub(crate) is_required: bool,
}

impl Statements {
    /// All of it as a script.
    pub(crate) fn script(&self) -> String {
        let mut script = "-- The schema as PostgreSQL gets it. Rows come after the tables, before \
                          keys and indexes.\n"
            .to_owned();
        let mut add = |sql: &str| {
            script.push_str(sql.trim_end());
            script.push_str(";\n");
        };
        self.tables.iter().for_each(|table| add(&table.create));
        let steps = self.tables.iter().flat_map(|table| table.indexes.iter().chain(&table.after));
        steps.for_each(|step| add(&step.sql));
        let keys = self.tables.iter().flat_map(|table| &table.foreign_keys);
        let steps = keys.chain(&self.views).chain(&self.triggers);
        steps.for_each(|step| add(&step.sql));
        self.tables.iter().filter_map(|table| table.sequence.as_deref()).for_each(&mut add);
        for left in &self.untranslated {
            let text = format!("not migrated: {}: {}\n{}", left.what, left.why, left.sql);
            text.trim().lines().for_each(|line| script.push_str(&format!("-- {line}\n")));
        }
        script
    }
}

/// Writes them.
pub(crate) fn write(
    schema: &Schema,
    names: &Names,
    plans: &mut [TablePlan],
    orphans: &[OrphanKey],
    options: &Options,
) -> Statements {
    let mut statements =
        Statements { untranslated: schema.left_out.clone(), ..Statements::default() };
    for (name, given) in &names.cut {
        statements.notes.push(format!("the name {name} is too long: it becomes {given}"));
    }
    let mut room = Room::of(names);
    for (table, plan) in schema.tables.iter().zip(plans.iter_mut()) {
        let targets: Vec<Target> = plan.columns.iter().map(|one| one.choice.target).collect();
        let mut writer = Writer {
            table,
            plan,
            scope: Scope { table: Some((table, &targets)), names },
            room: &mut room,
            style: options.names,
            statements: &mut statements,
        };
        let of_table = writer.table();
        statements.tables.push(of_table);
    }
    for table in 0..schema.tables.len() {
        foreign_keys(schema, names, plans, table, orphans, options, &mut statements);
    }
    if options.names == NameStyle::Both {
        folded_views(schema, names, &mut room, &mut statements);
    }
    view::write(schema, names, plans, (&mut room, options.names), &mut statements);
    routine::write(schema, names, plans, &mut statements);
    statements
}

/// Writes the statements of one table.
struct Writer<'a> {
    table: &'a Table,
    plan: &'a mut TablePlan,
    scope: Scope<'a>,
    room: &'a mut Room,
    style: NameStyle,
    statements: &'a mut Statements,
}

impl Writer<'_> {
    fn name(&self) -> String {
        identifier(self.scope.names.table(&self.table.name))
    }

    fn column(&self, place: usize) -> String {
        identifier(self.scope.names.column(&self.table.name, &self.table.columns[place].name))
    }

    fn lost(&mut self, what: String, why: impl Into<String>, sql: &str) {
        let why = format!("not certain to mean the same: {}", why.into());
        self.statements.untranslated.push(LeftOut { what, why, sql: sql.to_owned() });
    }

    fn table(&mut self) -> TableStatements {
        let mut lines: Vec<String> =
            (0..self.table.columns.len()).map(|place| self.column_line(place)).collect();
        if let Some(rowid) = &self.plan.rowid {
            lines.push(format!("{} bigint NOT NULL", identifier(rowid)));
        }
        let create = format!("CREATE TABLE {} (\n  {}\n)", self.name(), lines.join(",\n  "));
        let mut of_table = TableStatements { create, ..TableStatements::default() };
        self.primary_key(&mut of_table);
        for index in &self.table.indexes {
            self.index(index, &mut of_table);
        }
        self.checks(&mut of_table.after);
        TableStatements { sequence: self.sequence(), ..of_table }
    }

    fn column_line(&mut self, place: usize) -> String {
        let column = &self.table.columns[place];
        let target = self.plan.columns[place].choice.target;
        let mut line = format!("{} {}", self.column(place), target.sql());
        if target.is_text() {
            // The order and the letters' case as SQLite has them, wherever the server is.
            line.push_str(" COLLATE \"C\"");
        }
        let what = format!("{}.{}", self.table.name, column.name);
        if let Some(generated) = &column.generated {
            match self.generated(place, generated) {
                Ok(sql) => {
                    line.push_str(&format!(" GENERATED ALWAYS AS ({sql}) STORED"));
                    self.plan.columns[place].is_computed = true;
                }
                Err(why) => {
                    let why = format!("{why}; the column is there, with its values");
                    self.lost(format!("generated column {what}"), why, generated);
                }
            }
        } else if self.table.rowid_alias == Some(place) && target == Target::BigInt {
            line.push_str(" GENERATED BY DEFAULT AS IDENTITY");
        } else if let Some(default) = &column.default {
            let scope = Scope { table: None, ..self.scope };
            let translated = expression::translate(default, scope)
                .and_then(|piece| function::default_for(&piece, target));
            match translated {
                Ok(sql) => {
                    if sql.contains("gen_random_uuid") {
                        let note = format!("{what}: 122 of the 128 bits of its default are random");
                        self.statements.notes.push(note);
                    }
                    line.push_str(&format!(" DEFAULT {sql}"));
                }
                Err(why) => self.lost(format!("default of {what}"), why, default),
            }
        }
        let is_key = self.table.primary_key.contains(&place) && self.has_primary_key();
        let has_nulls = self.plan.profile.columns[place].nulls > 0;
        match (column.not_null || is_key, has_nulls) {
            (true, false) => line.push_str(" NOT NULL"),
            (true, true) => {
                self.lost(format!("NOT NULL of {what}"), "NULLs are in it", "NOT NULL");
            }
            _ => {}
        }
        line
    }

    fn generated(&self, place: usize, sql: &str) -> Result<String, String> {
        let piece = expression::translate(sql, self.scope)?;
        let target = self.plan.columns[place].choice.target;
        let uses_generated =
            self.table.columns.iter().any(|column| {
                column.generated.is_some() && expression::has_word(sql, &column.name)
            });
        match () {
            () if !piece.is_immutable => Err("it depends on more than the row".into()),
            () if uses_generated => Err("it uses another generated column".into()),
            () if kind_of(target) != piece.kind => {
                Err(format!("{} as {}", piece.sql, target.sql()))
            }
            () => Ok(piece.sql),
        }
    }

    fn sequence(&self) -> Option<String> {
        let place = self.table.rowid_alias?;
        if self.plan.columns[place].choice.target != Target::BigInt {
            return None;
        }
        let seen = &self.plan.profile.columns[place];
        let greatest = if seen.integers > 0 { seen.integer_max } else { 0 };
        let given = greatest.max(self.table.sequence.unwrap_or(0)).max(0);
        let next = given.checked_add(1)?;
        let (table, column) = (self.name(), self.column(place));
        Some(format!("ALTER TABLE {table} ALTER COLUMN {column} RESTART WITH {next}"))
    }

    /// Whether the primary key can be one on the server too.
    fn has_primary_key(&self) -> bool {
        let key = &self.table.primary_key;
        let has_nulls = key.iter().any(|place| self.plan.profile.columns[*place].nulls > 0);
        !key.is_empty() && !has_nulls && self.bytes_of(key) <= KEY_BYTES_MAX
    }

    fn primary_key(&mut self, of_table: &mut TableStatements) {
        let key = self.table.primary_key.clone();
        if key.is_empty() {
            return;
        }
        let what = format!("primary key of {}", self.table.name);
        let columns: Vec<String> = key.iter().map(|place| self.column(*place)).collect();
        let original = format!("PRIMARY KEY ({})", columns.join(", "));
        let index = self.index_name(&format!("{}_pkey", self.table.name));
        if self.has_primary_key() {
            self.constraint("PRIMARY KEY", (what, original), (&index, &columns), of_table);
            return;
        }
        let has_nulls = key.iter().any(|place| self.plan.profile.columns[*place].nulls > 0);
        let why = if has_nulls { "NULLs are in it" } else { "its values are too long for one" };
        let note = format!("{what}: {why}: a unique index takes its place");
        self.statements.notes.push(note);
        let keys: Vec<String> =
            key.iter().map(|place| self.short_key(*place, self.column(*place))).collect();
        let table = self.name();
        let sql = format!("CREATE UNIQUE INDEX {index} ON {table} ({})", keys.join(", "));
        of_table.indexes.push(Step { what, sql, original, is_required: true });
    }

    /// A constraint that is an index: built beside others, and then made one, which takes no time.
    fn constraint(
        &self,
        kind: &str,
        (what, original): (String, String),
        (index, columns): (&str, &[String]),
        of_table: &mut TableStatements,
    ) {
        let table = self.name();
        let build = format!("CREATE UNIQUE INDEX {index} ON {table} ({})", columns.join(", "));
        let make = format!("ALTER TABLE {table} ADD CONSTRAINT {index} {kind} USING INDEX {index}");
        let step =
            |sql| Step { what: what.clone(), sql, original: original.clone(), is_required: true };
        of_table.indexes.push(step(build));
        of_table.after.push(step(make));
    }

    fn bytes_of(&self, key: &[usize]) -> usize {
        let is_long = |place: &&usize| {
            let target = self.plan.columns[**place].choice.target;
            target.is_text() || target == Target::Bytea
        };
        let long = key.iter().filter(is_long);
        long.map(|place| self.plan.profile.columns[*place].bytes_max).sum()
    }

    fn short_key(&self, place: usize, sql: String) -> String {
        match self.bytes_of(&[place]) > KEY_BYTES_MAX / 4 {
            true => format!("md5({sql})"),
            false => sql,
        }
    }

    fn index_name(&mut self, name: &str) -> String {
        identifier(&self.room.take(name, self.style))
    }

    fn index(&mut self, index: &Index, of_table: &mut TableStatements) {
        let plain: Vec<usize> = index.keys.iter().filter_map(|key| key.column).collect();
        let is_plain = plain.len() == index.keys.len()
            && index.keys.iter().all(|key| self.is_binary(key))
            && self.bytes_of(&plain) <= KEY_BYTES_MAX;
        if index.origin == Origin::PrimaryKey && is_plain {
            return;
        }
        let columns: Vec<String> = plain.iter().map(|place| self.column(*place)).collect();
        let wanted = match index.name.starts_with("sqlite_autoindex_") {
            true => format!("{}_{}_key", self.table.name, columns.join("_").replace('"', "")),
            false => index.name.clone(),
        };
        if index.origin == Origin::Unique && is_plain {
            let what = format!("unique key of {} ({})", self.table.name, columns.join(", "));
            let original = format!("UNIQUE ({})", columns.join(", "));
            let name = self.index_name(&wanted);
            self.constraint("UNIQUE", (what, original), (&name, &columns), of_table);
            return;
        }
        let what = format!("index {} on {}", index.name, self.table.name);
        match self.keys_and_condition(index) {
            Ok((keys, condition)) => {
                let unique = if index.unique { "UNIQUE " } else { "" };
                let (name, table) = (self.index_name(&wanted), self.name());
                let sql = format!(
                    "CREATE {unique}INDEX {name} ON {table} ({}){condition}",
                    keys.join(", ")
                );
                let original = index.sql.clone();
                of_table.indexes.push(Step { what, sql, original, is_required: index.unique });
            }
            Err(why) => self.lost(what, why, &index.sql),
        }
    }

    /// Whether a key is compared byte by byte.
    fn is_binary(&self, key: &IndexKey) -> bool {
        let is_text =
            key.column.is_none_or(|place| self.plan.columns[place].choice.target.is_text());
        !is_text || key.collation == Collation::Binary
    }

    fn keys_and_condition(&mut self, index: &Index) -> Result<(Vec<String>, String), String> {
        let all: Vec<usize> = index.keys.iter().filter_map(|key| key.column).collect();
        let is_long = self.bytes_of(&all) > KEY_BYTES_MAX;
        let mut keys = Vec::new();
        for key in &index.keys {
            let (mut sql, kind) = match key.column {
                Some(place) => {
                    (self.column(place), kind_of(self.plan.columns[place].choice.target))
                }
                None => {
                    let piece = expression::translate(&key.expression, self.scope)?;
                    if !piece.is_immutable {
                        return Err("it depends on more than the row".into());
                    }
                    (format!("({})", piece.sql), piece.kind)
                }
            };
            if let (Some(place), true) = (key.column, is_long) {
                let short = self.short_key(place, sql.clone());
                if short != sql {
                    let note = format!(
                        "index {}: values of {} are too long for a key: their md5 is indexed",
                        index.name, self.table.columns[place].name
                    );
                    self.statements.notes.push(note);
                }
                sql = short;
            }
            let mut sql = function::key_with(key.collation, &sql, kind)?;
            if key.collation == Collation::NoCase && kind == Type::Text {
                let name = key.column.map(|place| self.table.columns[place].name.as_str());
                self.statements.notes.push(format!(
                    "index {}: NOCASE becomes lower(...): compare lower({}) to use it",
                    index.name,
                    name.unwrap_or(&key.expression)
                ));
            }
            // SQLite has NULLs before all values.
            sql.push_str(if key.descending { " DESC NULLS LAST" } else { "" });
            keys.push(sql);
        }
        let condition = match &index.condition {
            None => String::new(),
            Some(condition) => {
                let piece = expression::condition(condition, self.scope)?;
                format!(" WHERE {}", piece.sql)
            }
        };
        Ok((keys, condition))
    }

    fn checks(&mut self, after: &mut Vec<Step>) {
        for check in &self.table.checks {
            let what = format!("check of {}", self.table.name);
            let original = format!("CHECK ({})", check.expression);
            let translated = expression::condition(&check.expression, self.scope);
            match translated {
                Ok(piece) if piece.is_immutable => {
                    let name = check.name.as_deref().map(|name| {
                        format!("CONSTRAINT {} ", identifier(&crate::names::fitting(name)))
                    });
                    let name = name.unwrap_or_default();
                    let sql =
                        format!("ALTER TABLE {} ADD {name}CHECK ({})", self.name(), piece.sql);
                    after.push(Step { what, sql, original, is_required: false });
                }
                Ok(_) => self.lost(what, "it depends on more than the row", &original),
                Err(why) => self.lost(what, why, &original),
            }
        }
    }
}

fn foreign_keys(
    schema: &Schema,
    names: &Names,
    plans: &[TablePlan],
    table: usize,
    orphans: &[OrphanKey],
    options: &Options,
    statements: &mut Statements,
) {
    let child = &schema.tables[table];
    for key in &child.foreign_keys {
        let what =
            format!("foreign key of {} ({}) to {}", child.name, key.from.join(", "), key.table);
        let original = format!(
            "FOREIGN KEY ({}) REFERENCES {} ({})",
            key.from.join(", "),
            key.table,
            key.to.join(", ")
        );
        let is_orphaned =
            orphans.iter().any(|orphan| orphan.table == child.name && orphan.key == key.id);
        match foreign_key(schema, names, plans, table, key) {
            Ok((mut sql, parent)) => {
                if is_orphaned && options.orphans == Orphans::NotValid {
                    sql.push_str(NOT_VALID);
                    statements.notes.push(format!("{what}: NOT VALID, as rows violate it"));
                }
                let of_table = &mut statements.tables[table];
                of_table.foreign_keys.push(Step { what, sql, original, is_required: true });
                of_table.parents.push(parent);
            }
            Err(why) => statements.untranslated.push(LeftOut { what, why, sql: original }),
        }
    }
}

fn foreign_key(
    schema: &Schema,
    names: &Names,
    plans: &[TablePlan],
    table: usize,
    key: &ForeignKey,
) -> Result<(String, usize), String> {
    let child = &schema.tables[table];
    let parent_place = schema
        .tables
        .iter()
        .position(|other| other.name.eq_ignore_ascii_case(&key.table))
        .ok_or("there is no such table")?;
    let parent = &schema.tables[parent_place];
    let to: Vec<usize> = match key.to.is_empty() {
        true => parent.primary_key.clone(),
        false => key.to.iter().filter_map(|name| parent.column(name)).collect(),
    };
    let from: Vec<usize> = key.from.iter().filter_map(|name| child.column(name)).collect();
    if to.is_empty() || from.len() != to.len() || from.len() != key.from.len() {
        return Err("the other table has no such key".into());
    }
    let same = |columns: &[usize]| {
        columns.len() == to.len() && columns.iter().all(|column| to.contains(column))
    };
    let nulls = |columns: &[usize]| {
        columns.iter().any(|column| plans[parent_place].profile.columns[*column].nulls > 0)
    };
    let is_primary = same(&parent.primary_key) && !nulls(&parent.primary_key);
    let is_unique = parent.indexes.iter().any(|index| {
        let columns: Vec<usize> = index.keys.iter().filter_map(|key| key.column).collect();
        let plain = index.keys.iter().all(|key| key.collation == Collation::Binary);
        index.unique && index.condition.is_none() && plain && same(&columns)
    });
    if !is_primary && !is_unique {
        return Err("the columns that it names are no key of the other table".into());
    }
    for (one, other) in from.iter().zip(&to) {
        let child_target = plans[table].columns[*one].choice.target;
        let parent_target = plans[parent_place].columns[*other].choice.target;
        let alike = kind_of(child_target) == kind_of(parent_target)
            && kind_of(child_target) != Type::Other
            || child_target == parent_target;
        if !alike {
            return Err(format!(
                "{} is {}, and {} of the other table is {}",
                child.columns[*one].name,
                child_target.sql(),
                parent.columns[*other].name,
                parent_target.sql()
            ));
        }
    }
    let list = |table: &Table, columns: &[usize]| {
        let columns = columns
            .iter()
            .map(|column| identifier(names.column(&table.name, &table.columns[*column].name)));
        columns.collect::<Vec<_>>().join(", ")
    };
    let action = |when: &str, action: &str| match action {
        "NO ACTION" | "NONE" | "" => String::new(),
        action => format!(" {when} {action}"),
    };
    let sql = format!(
        "ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({}){}{}{}",
        identifier(names.table(&child.name)),
        list(child, &from),
        identifier(names.table(&parent.name)),
        list(parent, &to),
        action("ON UPDATE", &key.on_update),
        action("ON DELETE", &key.on_delete),
        if key.deferred { " DEFERRABLE INITIALLY DEFERRED" } else { "" }
    );
    Ok((sql, parent_place))
}

/// Views in lower case of what is written otherwise.
fn folded_views(schema: &Schema, names: &Names, room: &mut Room, statements: &mut Statements) {
    for table in &schema.tables {
        let name = names.table(&table.name);
        let lower = name.to_lowercase();
        let columns: Vec<&str> =
            table.columns.iter().map(|column| names.column(&table.name, &column.name)).collect();
        let is_folded = lower == name;
        if is_folded {
            if columns.iter().any(|column| column.to_lowercase() != *column) {
                let note =
                    format!("table {name}: columns keep their case: no view can have its name");
                statements.notes.push(note);
            }
            continue;
        }
        let columns: Vec<String> = columns
            .iter()
            .map(|column| {
                format!("{} AS {}", identifier(column), identifier(&column.to_lowercase()))
            })
            .collect();
        let view = room.take(&lower, NameStyle::Lower);
        let sql = format!(
            "CREATE VIEW {} AS SELECT {} FROM {}",
            identifier(&view),
            columns.join(", "),
            identifier(name)
        );
        let what = format!("view {view}");
        statements.views.push(Step { what, sql, original: String::new(), is_required: true });
    }
}

/// What is left of the original beside a table, for whoever looks there.
pub(crate) fn comments(statements: &Statements, names: &Names, schema: &Schema) -> Vec<String> {
    let of_table = |table: &Table| {
        let ends = [format!(" {}", table.name), format!(" {}.", table.name)];
        let lost: Vec<String> = statements
            .untranslated
            .iter()
            .filter(|left| left.what.ends_with(&ends[0]) || left.what.contains(&ends[1]))
            .filter(|left| !left.sql.is_empty())
            .map(|left| format!("{}: {}", left.what, left.sql))
            .collect();
        let name = identifier(names.table(&table.name));
        let text = format!("not migrated from SQLite: {}", lost.join("; "));
        (!lost.is_empty()).then(|| format!("COMMENT ON TABLE {name} IS {}", literal(&text)))
    };
    schema.tables.iter().filter_map(of_table).collect()
}
