//! Work that a program has started and hears of by events. Each job has a thread of its own.

use std::sync::{Arc, Mutex};

use ferro_console::monitor::{Event, JobInfo, OperationError};

use super::Subscribers;
use crate::bus::lock;
use crate::state::Progress;

/// Jobs that are remembered, those that have ended included.
const MAX_JOBS: usize = 64;

struct Job {
    id: String,
    kind: &'static str,
    status: &'static str,
    progress: Arc<Progress>,
    error: Option<String>,
}

/// The jobs of a VM.
pub(super) struct Jobs {
    jobs: Mutex<Vec<Job>>,
    subscribers: Arc<Subscribers>,
}

impl Jobs {
    /// None yet.
    pub(super) fn new(subscribers: Arc<Subscribers>) -> Arc<Self> {
        Arc::new(Self { jobs: Mutex::default(), subscribers })
    }

    fn enter(&self, id: &str, status: &'static str) {
        if let Some(job) = lock(&self.jobs).iter_mut().find(|job| job.id == id) {
            job.status = status;
        }
        self.subscribers.tell(&Event::JobStatus { id: id.to_owned(), status: status.to_owned() });
    }

    /// Starts `work` under this name. It stays known until it is dismissed.
    ///
    /// # Errors
    /// A name that is taken, too many jobs, and no thread to be had.
    pub(super) fn start(
        self: &Arc<Self>,
        id: &str,
        kind: &'static str,
        work: impl FnOnce(&Progress) -> Result<(), OperationError> + Send + 'static,
    ) -> Result<(), OperationError> {
        let progress = Arc::<Progress>::default();
        {
            let mut jobs = lock(&self.jobs);
            if jobs.iter().any(|job| job.id == id) {
                return Err(OperationError::new(format!("Job ID '{id}' already in use")));
            }
            if jobs.len() == MAX_JOBS {
                return Err(OperationError::new("there are too many jobs: dismiss those that have concluded"));
            }
            jobs.push(Job { id: id.to_owned(), kind, status: "created", progress: progress.clone(), error: None });
        }
        self.enter(id, "created");
        let (jobs, name) = (self.clone(), id.to_owned());
        let thread = move || {
            jobs.enter(&name, "running");
            let result = work(&progress);
            let ends: &[&'static str] = if result.is_ok() { &["waiting", "pending"] } else { &["aborting"] };
            if let (Err(error), Some(job)) = (result, lock(&jobs.jobs).iter_mut().find(|job| job.id == name)) {
                job.error = Some(error.description);
            }
            ends.iter().for_each(|status| jobs.enter(&name, status));
            jobs.enter(&name, "concluded");
        };
        if let Err(error) = std::thread::Builder::new().name("job".into()).spawn(thread) {
            lock(&self.jobs).retain(|job| job.id != id);
            return Err(OperationError::new(format!("cannot start a thread for the job: {error}")));
        }
        Ok(())
    }

    /// All of them.
    pub(super) fn list(&self) -> Vec<JobInfo> {
        let info = |job: &Job| {
            let (current_progress, total_progress) = job.progress.get();
            JobInfo {
                id: job.id.clone(),
                kind: job.kind.to_owned(),
                status: job.status.to_owned(),
                current_progress,
                total_progress,
                error: job.error.clone(),
            }
        };
        lock(&self.jobs).iter().map(info).collect()
    }

    /// Forgets one that has ended.
    ///
    /// # Errors
    /// There is none of that name, or it is still at work.
    pub(super) fn dismiss(&self, id: &str) -> Result<(), OperationError> {
        let mut jobs = lock(&self.jobs);
        let Some(at) = jobs.iter().position(|job| job.id == id) else {
            return Err(OperationError::new("Job not found"));
        };
        if jobs[at].status != "concluded" {
            let status = jobs[at].status;
            let told = format!("Job '{id}' in state '{status}' cannot accept command verb 'dismiss'");
            return Err(OperationError::new(told));
        }
        jobs.remove(at);
        drop(jobs);
        self.subscribers.tell(&Event::JobStatus { id: id.to_owned(), status: "null".to_owned() });
        Ok(())
    }
}
