//! BuildKit: `buildkitd.toml`, for a buildkitd of its own and for `docker buildx create`.
//!
//! Mirrors are hosts there, not URLs. On loopback one is spoken to in plain HTTP unless `http = false` is said. Nothing
//! is ever pushed to a mirror.

use toml_edit::{Array, Item, Table, TableLike, Value, value};

use super::{Ask, Error, Mode, Plan, merge, trust};

pub(super) fn plan(ask: &Ask<'_>) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    let file = ask.place.etc("buildkit/buildkitd.toml");
    let refuse = |problem: String| Error::file(ask.place.outside(&file), problem);
    let mut document = merge::toml(ask.text(&file)?.as_bytes()).map_err(refuse)?;
    let authority = ask.standin.authority();
    let registries = document
        .entry("registry")
        .or_insert_with(implicit)
        .as_table_like_mut()
        .ok_or_else(|| refuse("its registry is no table".to_owned()))?;
    match ask.request.mode {
        Mode::Mirror => {
            let ca = ask.ca(&mut plan);
            for registry in ask.registries() {
                let table = table_of(registries, &registry.to_string()).map_err(refuse)?;
                put_first(table, "mirrors", &authority).map_err(refuse)?;
            }
            let ours = table_of(registries, &authority).map_err(refuse)?;
            ours.insert("http", value(!ask.standin.url.is_https()));
            if let Some(ca) = ca {
                put_first(ours, "ca", &ca).map_err(refuse)?;
            }
        }
        Mode::Proxy => {
            let named = ask.trusted(&mut plan)?;
            for registry in ask.registries() {
                let table = table_of(registries, &registry.to_string()).map_err(refuse)?;
                put_first(table, "ca", &named).map_err(refuse)?;
            }
            plan.note(format!(
                "buildkitd takes the proxy from its environment (HTTPS_PROXY={} NO_PROXY={}), and so does the client that \
                 logs in for it: eval \"$(standin configure env)\"",
                ask.standin.proxy(),
                trust::no_proxy(ask.standin, "")
            ));
        }
    }
    let shown = file.display().to_string();
    plan.file(file, document.to_string());
    plan.note(
        "buildkitd reads this at its start; it pushes to the registry itself, not to a mirror",
    );
    let network = match ask.standin.loopback() {
        true => " --driver-opt network=host",
        false => "",
    };
    plan.note(format!(
        "for a builder in a container: docker buildx create --use --driver docker-container{network} --buildkitd-config {shown}"
    ));
    Ok(plan)
}

fn table_of<'a>(
    registries: &'a mut dyn TableLike,
    name: &str,
) -> Result<&'a mut dyn TableLike, String> {
    registries
        .entry(name)
        .or_insert_with(|| Item::Table(Table::new()))
        .as_table_like_mut()
        .ok_or_else(|| format!("its registry.{name:?} is no table"))
}

fn put_first(table: &mut dyn TableLike, key: &str, first: &str) -> Result<(), String> {
    let list = table
        .entry(key)
        .or_insert_with(|| value(Array::new()))
        .as_array_mut()
        .ok_or_else(|| format!("its {key} is no list: make it one"))?;
    list.retain(|one: &Value| one.as_str() != Some(first));
    list.insert(0, first);
    list.fmt();
    Ok(())
}

fn implicit() -> Item {
    let mut table = Table::new();
    table.set_implicit(true);
    Item::Table(table)
}
