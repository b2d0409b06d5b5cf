//! How an edit of intent is written, on the disk and to other nodes.
//!
//! It is JSON, kept and handed on as the text that came, so that a node also forwards what only a later version
//! understands of it. What the tenant signed is the bundle with its edit, or the end; where things run is the nodes' to say.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use littoral_control::edits::Version;
use littoral_model::composition::Composition;
use littoral_model::edit::Edit;
use littoral_model::hlc::Hlc;
use littoral_model::id::{AppId, NodeId};
use littoral_plan::Placement;
use serde::{Deserialize, Serialize};

use crate::admin::types::{AppBundle, AppEdit, AppEnd};
use crate::signing::{edit_id, stamp_id};

/// The form that is written.
const FORMAT: u32 = 2;

/// An edit that this node knows.
pub(crate) type Known = Version<Arc<Said>>;

/// What was said of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) app: AppId,
    /// None where it ends the app.
    pub(crate) wanted: Option<Wanted>,
    /// Where it ends the app; none there, too, in records of the first form.
    pub(crate) end: Option<AppEnd>,
    /// As it came.
    pub(crate) text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) bundle: AppBundle,
    pub(crate) placement: Placement,
    #[serde(default, skip_serializing_if = "Composition::is_empty")]
    pub(crate) composition: Composition,
}

/// Any form. The first one has no number and a stamp, and its edits no place among the others: the latest held.
#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(default = "first")]
    format: u32,
    app: AppId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stamp: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wanted: Option<Wanted>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<AppEnd>,
}

fn first() -> u32 {
    1
}

/// When an app was last deployed or ended, and by which node.
#[derive(Serialize, Deserialize)]
struct Stamp {
    time: Hlc,
    node: NodeId,
}

/// Reads a record.
///
/// # Errors
/// When it is of another version, or contradicts itself.
pub(crate) fn read(text: &str) -> anyhow::Result<Known> {
    let Record { format, app, stamp, wanted, end } = serde_json::from_str(text)?;
    ensure!((1..=FORMAT).contains(&format), "it has form {format}, and this node reads up to {FORMAT}: upgrade it");
    let (id, edit) = match (&wanted, &end, stamp) {
        (Some(Wanted { bundle: bundle @ AppBundle { edit: Some(edit), .. }, .. }), None, None) => {
            ensure!(!edit.ends, "it deploys and ends at once");
            (edit_id(&app, edit, Some(bundle)), edit.clone())
        }
        (None, Some(end), None) => {
            ensure!(end.edit.ends, "it neither deploys nor ends");
            (edit_id(&app, &end.edit, None), end.edit.clone())
        }
        (wanted, None, Some(stamp)) if format == 1 => {
            let edit = Edit {
                incarnation: 0,
                generation: 1,
                ends: wanted.is_none(),
                lineage: Vec::new(),
                puts_aside: Vec::new(),
                time: stamp.time,
                author: stamp.node.to_string(),
            };
            (stamp_id(&app, &edit), edit)
        }
        _ => anyhow::bail!("it says nothing"),
    };
    Ok(Version { id, edit, says: Arc::new(Said { app, wanted, end, text: text.to_owned() }) })
}

/// Writes a deployment.
///
/// # Errors
/// When it has no edit.
pub(crate) fn deployment(app: AppId, wanted: Wanted) -> anyhow::Result<Known> {
    write(&Record { format: FORMAT, app, stamp: None, wanted: Some(wanted), end: None })
}

/// Writes an end.
///
/// # Errors
/// When its edit is none of an end.
pub(crate) fn end(app: AppId, end: AppEnd) -> anyhow::Result<Known> {
    write(&Record { format: FORMAT, app, stamp: None, wanted: None, end: Some(end) })
}

fn write(record: &Record) -> anyhow::Result<Known> {
    read(&serde_json::to_string(record).context("it cannot be written")?)
}

/// Whether it is of the first form.
pub(crate) fn is_stamped(version: &Known) -> bool {
    version.edit.incarnation == 0
}

/// As people are shown it.
pub(crate) fn shown(version: &Known) -> AppEdit {
    let bundle = version.says.wanted.as_ref().map(|wanted| wanted.bundle.clone());
    AppEdit { id: version.id, edit: version.edit.clone(), bundle }
}
