//! `standin run`: a registry for as long as a command runs.
//!
//! Four processes. *We* are what the CI system knows: we start the others and return the command's status. The *server* is
//! `standin serve`, and ends with us. The *command* is a process group of its own. The *guardian* is told of everything we
//! bring into the world, and ends it all if we are killed. If the server or the guardian is killed, we end the rest.

mod belongings;
mod command;
mod environment;
mod group;
mod guard;
mod terminal;

use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::DirBuilderExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpid, waitid};
use tokio::sync::oneshot;

use self::{
    belongings::{Belongings, ClientsLock, Order},
    guard::Guardian,
    terminal::Terminal,
};
use super::{
    Instance, Start,
    report::Report,
    signals::{self, Event, Events},
};
use crate::{
    clients::{self, Client, Place, Request, Standin},
    transfer::{Claim, Claims},
};

pub use self::{guard::guard, terminal::write_from_background};

/// What is to be run, and how.
#[derive(Debug)]
pub struct Run {
    /// The server, with its directories.
    pub start: Start,
    /// A directory for what is temporary, one of [`DIRECTORIES`], which is not there yet.
    pub directory: PathBuf,
    /// Where the server leaves its ready file.
    pub ready_file: PathBuf,
    /// Where content is kept that is not temporary.
    pub kept: Option<PathBuf>,
    /// How long the server has to become ready.
    pub ready_timeout: Duration,
    /// Where it tells more than what goes wrong, if anywhere.
    pub log_file: Option<PathBuf>,
    /// How long the command has to end after SIGTERM.
    pub grace: Duration,
    /// Clients to set up, and where.
    pub configure: Option<(Place, Vec<Request>)>,
    pub proxy_env: bool,
    pub docker_config: bool,
    /// A user and password for docker, where the server asks for one.
    pub log_in: Option<(String, String)>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

impl Run {
    /// Runs the command with its registry; answers the exit status, and leaves nothing behind.
    ///
    /// # Errors
    /// The registry could not be started, or not kept up until the command had ended, or what was set up could not be taken back.
    pub fn run(self) -> anyhow::Result<u8> {
        let name = self.command.first().context("there is no command to run")?;
        let program = match command::find(name) {
            Ok(program) => program,
            Err((status, problem)) => return Ok(refused(status, &problem)),
        };
        terminal::write_from_background();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("can't start threads")?;
        let mut events = runtime.block_on(async { Events::listen() })?;
        let clients: Vec<Client> = self.clients();
        let lock = match &self.configure {
            Some((place, _)) => Some(ClientsLock::take(place, &clients)?),
            None => None,
        };
        let held = lock.as_ref().map(ClientsLock::share).transpose()?;
        let mut job = Job {
            guardian: Guardian::start(held)?,
            belongings: Belongings::default(),
            server: None,
            told: None,
            command_ran: false,
            interrupted: false,
        };
        job.bring(Order::Grace(self.grace));
        if let Some((place, _)) = &self.configure {
            job.bring(Order::Clients(place.clone(), clients));
        }
        let result = runtime.block_on(self.within(&mut job, &mut events, &program));
        let (command_ran, interrupted) = (job.command_ran, job.interrupted);
        let (problems, report) = job.end();
        drop(lock);
        if command_ran {
            self.summarize(report.as_ref());
        }
        if interrupted {
            terminal::pass_on_interrupt();
        }
        match result {
            Ok(status) if problems.is_empty() => Ok(status),
            Ok(0) => anyhow::bail!(problems.join("\n")),
            Ok(status) => {
                for problem in problems {
                    log::error!("{problem}");
                }
                Ok(status)
            }
            Err(error) if problems.is_empty() => Err(error),
            Err(error) => Err(error.context(problems.join("\n"))),
        }
    }

    async fn within(
        &self,
        job: &mut Job,
        events: &mut Events,
        program: &std::path::Path,
    ) -> anyhow::Result<u8> {
        let _claim = self.claim().with_context(|| {
            format!(
                "can't make the directory {}: give TMPDIR, or --data and --state, a place that can be written to",
                self.directory.display()
            )
        })?;
        job.bring(Order::Directory(self.directory.clone()));
        let ready = tokio::select! {
            ready = job.start_server(&self.start) => ready?,
            signal = events.end_asked_for() => {
                return Ok(refused(
                    signals::status(signal),
                    &format!("{} came before the registry was ready; the command was not started", signals::name(signal)),
                ));
            }
            () = tokio::time::sleep(self.ready_timeout) => anyhow::bail!(
                "the registry was not ready after {:?}, so the command was not run: {}, and --ready-timeout gives it longer",
                self.ready_timeout,
                match &self.log_file {
                    Some(log) => format!("{} says what it was doing", log.display()),
                    None => "RUST_LOG=info has it say what it is doing".to_owned(),
                }
            ),
        };
        if !ready {
            // It has said why, and is about to end.
            if let Some(mut server) = job.server.take() {
                let _ = server.wait();
            }
            anyhow::bail!("the registry did not start, so the command was not run");
        }
        let instance = Instance::read(&self.ready_file)?.with_context(|| {
            format!(
                "the registry has left no ready file {}",
                self.ready_file.display()
            )
        })?;
        let variables = self.prepare(&instance)?;
        let child = match command::start(program, &self.command, &variables) {
            Ok(child) => child,
            Err((status, problem)) => return Ok(refused(status, &problem)),
        };
        job.command_ran = true;
        let group = Pid::from_child(&child);
        job.bring(Order::Group(Some(group.as_raw_nonzero().get())));
        let terminal = Terminal::open();
        if let Some(terminal) = &terminal {
            job.bring(Order::Terminal(terminal.ours().as_raw_nonzero().get()));
            terminal.give_at_start_to(group);
            // It may have been stopped for reading from the terminal a moment too early.
            group::signal(group, Signal::CONT);
        }
        let status = self.attend(job, events, group, terminal.as_ref()).await;
        if let (Some(terminal), Ok(status)) = (&terminal, &status) {
            let signal = status.terminating_signal();
            job.interrupted = terminal.was_given() && signal == Some(Signal::INT.as_raw());
        }
        if let Some(terminal) = &terminal {
            terminal.take_back_from(group);
        }
        // Its first process has not been waited for, so that the id is still the group's.
        let left = group::end(group, self.grace.min(LEFT_BEHIND));
        if left > 0 && status.is_ok() {
            log::warn!("{left} processes that the command had left running were ended");
        }
        job.bring(Order::Group(None));
        let _ = waitid(WaitId::Pid(group), WaitIdOptions::EXITED);
        drop(child);
        status.map(|status| command::exit_status(&status))
    }

    /// Makes the directory, in place of those of runs that were killed with their guardians.
    fn claim(&self) -> io::Result<Claim> {
        if let Some(parent) = self.directory.parent() {
            if self.kept.is_some() {
                let mut make = DirBuilder::new();
                make.recursive(true).mode(0o700).create(parent)?;
            }
            for left in DIRECTORIES.sweep(parent) {
                log::info!(
                    "{} is removed, which a run that was killed has left",
                    left.display()
                );
            }
        }
        DIRECTORIES.make(&self.directory)
    }

    /// Sets up the clients, and answers what the command finds in its environment.
    fn prepare(&self, instance: &Instance) -> anyhow::Result<Vec<(String, OsString)>> {
        let standin = || -> anyhow::Result<Standin> {
            let ca = fs::read_to_string(&instance.ca)
                .with_context(|| format!("can't read {}", instance.ca.display()))?;
            Ok(Standin {
                url: instance.https.clone(),
                listeners: instance.listeners.clone(),
                ca: Some(ca),
                registries: instance.registries.clone(),
            })
        };
        if let Some((place, requests)) = &self.configure {
            for request in requests {
                let (_, plan) = clients::write(place, request, &standin()?).with_context(|| {
                    format!("{} can't be set up for the registry", request.client.name())
                })?;
                for note in plan.notes() {
                    log::info!("{}: {note}", request.client.name());
                }
            }
        }
        let mut variables = environment::base(instance, &self.ready_file);
        if self.proxy_env {
            variables.extend(environment::proxy(&standin()?, &self.directory)?);
        }
        if self.docker_config {
            let generated = instance.user.clone().zip(instance.password.clone());
            let log_in = generated.or_else(|| self.log_in.clone());
            let address = instance.address.to_string();
            variables.extend(environment::docker(
                &address,
                log_in.as_ref(),
                &self.directory,
            )?);
        }
        Ok(variables)
    }

    /// Waits for the command's end, and passes on what it is told meanwhile.
    async fn attend(
        &self,
        job: &mut Job,
        events: &mut Events,
        group: Pid,
        terminal: Option<&Terminal>,
    ) -> anyhow::Result<WaitIdStatus> {
        let mut deadline: Option<Instant> = None;
        loop {
            if let Some(status) = ended(group)? {
                return Ok(status);
            }
            if let Some(terminal) = terminal
                && let Some(why) = stopped(group)
            {
                let asks = [Signal::TTIN, Signal::TTOU]
                    .map(Signal::as_raw)
                    .contains(&why);
                if !(asks && terminal.give_to(group)) {
                    terminal.stop_with(group);
                }
                group::signal(group, Signal::CONT);
                continue;
            }
            job.ensure_whole()?;
            let event = match deadline {
                None => events.next().await,
                Some(at) => tokio::time::timeout_at(at.into(), events.next())
                    .await
                    .unwrap_or(Event::Late),
            };
            match event {
                Event::Child => {}
                Event::Late => {
                    log::warn!(
                        "the command did not end within {:?} of being told to, and is killed",
                        self.grace
                    );
                    group::signal(group, Signal::KILL);
                    deadline = None;
                }
                Event::Signal(Signal::CONT) => {
                    if let Some(terminal) = terminal.filter(|terminal| terminal.was_given()) {
                        terminal.give_to(group);
                    }
                    group::signal(group, Signal::CONT);
                }
                Event::Signal(signal @ (Signal::TERM | Signal::HUP)) => {
                    if deadline.is_some() {
                        log::warn!(
                            "{} came a second time: the command is killed",
                            signals::name(signal)
                        );
                        group::signal(group, Signal::KILL);
                        continue;
                    }
                    deadline = Some(Instant::now() + self.grace);
                    group::signal(group, signal);
                    // One that is stopped would not hear of it.
                    group::signal(group, Signal::CONT);
                }
                Event::Signal(signal) => group::signal(group, signal),
            }
        }
    }

    /// What the registry has done for the command, in a few lines.
    fn summarize(&self, report: Option<&Report>) {
        let mut lines = match report {
            Some(report) => report.lines(),
            None => vec!["the registry was killed: what it had done is not known".to_owned()],
        };
        if let Some(kept) = &self.kept {
            lines.push(format!("the content is kept in {}", kept.display()));
        }
        let text: String = lines
            .iter()
            .map(|line| format!("standin: {line}\n"))
            .collect();
        let _ = io::stderr().write_all(text.as_bytes());
    }

    fn clients(&self) -> Vec<Client> {
        let requests = self.configure.iter().flat_map(|(_, requests)| requests);
        requests.map(|request| request.client).collect()
    }
}

/// What runs, and what is to end with it.
struct Job {
    guardian: Guardian,
    belongings: Belongings,
    server: Option<Child>,
    /// What the server prints behind the ready line.
    told: Option<JoinHandle<String>>,
    command_ran: bool,
    /// By Ctrl-C, of which nobody else has heard.
    interrupted: bool,
}

impl Job {
    /// Notes, here and with the guardian, what is to end with the run.
    fn bring(&mut self, order: Order) {
        self.guardian.tell(&order);
        self.belongings.take(order);
    }

    /// Starts the server; whether it is ready, or has ended.
    async fn start_server(&mut self, start: &Start) -> anyhow::Result<bool> {
        let mut command = start.command(Stdio::inherit())?;
        command
            .arg(format!("--exit-with-parent={}", getpid().as_raw_nonzero()))
            .arg("--tells-report")
            .process_group(0);
        let mut server = command.spawn().context("can't start `standin serve`")?;
        let stdout = server.stdout.take();
        self.bring(Order::Server(
            Pid::from_child(&server).as_raw_nonzero().get(),
        ));
        self.server = Some(server);
        let (is_ready, ready) = oneshot::channel();
        // Of its own: the server must not wait for us to read, whatever we are busy with.
        let reading = std::thread::Builder::new().name("standin-server".to_owned());
        let told = reading.spawn(move || {
            let mut text = String::new();
            if let Some(stdout) = stdout {
                let mut stdout = BufReader::new(stdout);
                // Its end without a line is the server's.
                let _ = stdout.read_line(&mut text);
                let _ = is_ready.send(!text.is_empty());
                text.clear();
                let _ = stdout.read_to_string(&mut text);
            }
            text
        });
        self.told = Some(told.context("can't start threads")?);
        Ok(ready.await?)
    }

    /// A command must not go on against nothing, nor unguarded.
    fn ensure_whole(&mut self) -> anyhow::Result<()> {
        if let Some(server) = &mut self.server
            && let Some(status) = server.try_wait()?
        {
            anyhow::bail!(
                "the registry ended while the command ran ({status}); the command was ended"
            );
        }
        if let Some(status) = self.guardian.process.try_wait()? {
            anyhow::bail!(
                "the guardian of this run ended while the command ran ({status}); the command was ended"
            );
        }
        Ok(())
    }

    /// Ends all that is left. Answers what could not be, and what the registry has done.
    fn end(mut self) -> (Vec<String>, Option<Report>) {
        let mut server = self.server.take();
        // One that has ended by itself was told of already.
        let runs = |server: &mut Child| matches!(server.try_wait(), Ok(None));
        let ran = server.as_mut().is_some_and(runs);
        let mut problems = self.belongings.end();
        if let Some(mut server) = server
            && let Ok(status) = server.wait()
            && ran
            && status.code().is_some_and(|code| code != 0)
        {
            problems.push(format!("the registry did not end as it should ({status})"));
        }
        let told = self.told.take().and_then(|told| told.join().ok());
        self.guardian.dismiss();
        let report = told.and_then(|text| serde_json::from_str(&text).ok());
        (problems, report)
    }
}

/// How the command's first process ended, which stays to be waited for.
fn ended(pid: Pid) -> anyhow::Result<Option<WaitIdStatus>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), options).context("can't wait for the command")
}

/// The signal that has stopped it, once.
fn stopped(pid: Pid) -> Option<i32> {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
    waitid(WaitId::Pid(pid), options).ok()??.stopping_signal()
}

/// Says why there is no command's own status.
fn refused(status: u8, problem: &str) -> u8 {
    let _ = writeln!(io::stderr(), "standin: error: {problem}");
    status
}

/// Those that runs make for what is temporary.
pub const DIRECTORIES: Claims = Claims {
    prefix: "standin-run-",
    mode: 0o700,
};
/// How long those have to end that the command has left running.
const LEFT_BEHIND: Duration = Duration::from_secs(5);
