//! What is told of a job: live, and when it is over.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;

use crate::{
    activity::Activity,
    config::Config,
    http::{StatusAsked, StatusForm, StatusPage},
    job::report::{self, Format, Refresh, Report, ReportFile, View},
    registry::Registry,
};

/// Where reports go, and what they are made of. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reports {
    activity: Arc<Activity>,
    registry: Registry,
    files: Vec<ReportFile>,
    step_summary: Option<PathBuf>,
    to_stdout: bool,
}

impl Reports {
    /// # Errors
    /// A file can't be written. Better now than when the job is over.
    pub(super) fn new(
        activity: &Arc<Activity>,
        registry: &Registry,
        config: &Config,
    ) -> anyhow::Result<Self> {
        for file in &config.reports {
            file.check().with_context(|| unwritten(file))?;
        }
        Ok(Self {
            activity: Arc::clone(activity),
            registry: registry.clone(),
            files: config.reports.clone(),
            step_summary: config.step_summary.clone(),
            to_stdout: config.report_to_stdout,
        })
    }

    /// `/status`.
    pub(super) fn page(&self, asked: &StatusAsked<'_>) -> StatusPage {
        let view = View {
            may: asked.may,
            messages: asked.trusted,
        };
        let report = Report::gather(&self.activity, true, view);
        let text = match asked.form {
            StatusForm::Html => report.html(asked.refresh.map_or(Refresh::ByHand, Refresh::Every)),
            // That it can be written is known from its type.
            StatusForm::Json => report.json().unwrap_or_default(),
            StatusForm::Markdown => report.markdown(),
        };
        StatusPage {
            text,
            policy: report::POLICY,
        }
    }

    /// Tells the log of each pull and push when it is over. Does not end.
    pub(super) async fn tell(activity: Arc<Activity>) {
        loop {
            activity.stirred().await;
            while activity.settle() {
                tokio::time::sleep(TELLS_EVERY).await;
            }
        }
    }

    /// Writes the files once more before the process is told so by force, which CI systems do if it takes its time.
    pub(super) fn write_early(&self) {
        let report = self.gather(true);
        for file in &self.files {
            if let Err(error) = file.write(&report) {
                log::debug!("{}: {error}", unwritten(file));
            }
        }
    }

    /// Writes all that was asked for.
    ///
    /// # Errors
    /// The first file that can't be written; the others are all the same.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        self.activity.close();
        let report = self.gather(false);
        for line in report.lines() {
            log::info!("in all: {line}");
        }
        let mut failed = Ok(());
        for file in &self.files {
            let written = file.write(&report).with_context(|| unwritten(file));
            if written.is_ok() {
                log::info!("the report is in {}", file.path.display());
            }
            match (&failed, written) {
                (Ok(()), written) => failed = written,
                (Err(_), Err(error)) => log::error!("{error:#}"),
                (Err(_), Ok(())) => {}
            }
        }
        if let Some(summary) = &self.step_summary
            && let Err(error) = report::append_summary(summary, &report)
        {
            let summary = summary.display();
            log::warn!(
                "the report is not in the step's summary, {summary} (GITHUB_STEP_SUMMARY): {error}"
            );
        }
        if self.to_stdout
            && let Ok(report) = serde_json::to_string(&report)
        {
            // Whoever has started us may have been killed.
            let _ = writeln!(io::stdout(), "{report}");
        }
        failed
    }

    fn gather(&self, running: bool) -> Report {
        let size = self.registry.cache_size();
        let (manifests, bytes) = (size.evicted_manifests, size.evicted_bytes);
        let metrics = self.activity.metrics();
        metrics.cache(size.used, size.cap, manifests, bytes);
        Report::gather(&self.activity, running, View::ALL)
    }
}

fn unwritten(file: &ReportFile) -> String {
    let form = match file.format {
        Format::Json => "JSON",
        Format::Markdown => "Markdown",
        Format::Html => "HTML",
    };
    format!(
        "the report can't be written as {form} to {} (--report)",
        file.path.display()
    )
}

const TELLS_EVERY: Duration = Duration::from_secs(1);
