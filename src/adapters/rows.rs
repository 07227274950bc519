//! Which rows of a batch belong to which task.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The rows of a batch, sorted by task: those of task t are the rows of [`TaskRows::of`]`(t)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRows {
    /// First row of each task, and the number of rows: tasks + 1 values.
    starts: Vec<usize>,
}

impl TaskRows {
    /// Sorts rows by task, those of one task staying in their order. Returns the groups, and which row of the batch stands at
    /// each place of the sorted one.
    ///
    /// # Errors
    /// `InvalidParams` for a task that is not below `count`.
    pub fn sort(tasks: &[usize], count: usize) -> Result<(TaskRows, Vec<usize>)> {
        if let Some(task) = tasks.iter().find(|&&task| task >= count) {
            return Err(Error::params(
                "task",
                format!("task {task} does not exist: there are {count}, counted from 0"),
            ));
        }
        let mut starts = vec![0; count + 1];
        tasks.iter().for_each(|task| starts[task + 1] += 1);
        (0..count).for_each(|task| starts[task + 1] += starts[task]);
        let mut order: Vec<usize> = (0..tasks.len()).collect();
        order.sort_by_key(|&row| tasks[row]); // Stable.
        Ok((TaskRows { starts }, order))
    }

    /// All `rows` belong to `task`, which is below `count`.
    pub fn single(task: usize, rows: usize, count: usize) -> TaskRows {
        TaskRows { starts: (0..=count).map(|at| if at > task { rows } else { 0 }).collect() }
    }

    /// Rows of a task.
    pub fn of(&self, task: usize) -> Range<usize> {
        self.starts[task]..self.starts[task + 1]
    }

    /// Rows of all tasks.
    pub fn rows(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Number of tasks, also of those without rows.
    pub fn tasks(&self) -> usize {
        self.starts.len() - 1
    }

    /// The tasks that have rows, with these.
    pub fn present(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        (0..self.tasks()).map(|task| (task, self.of(task))).filter(|(_, rows)| !rows.is_empty())
    }
}

/// Names of tasks; a task's number is its place here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskNames(Vec<String>);

impl TaskNames {
    /// # Errors
    /// `InvalidParams` where there are none, or one is empty or repeated.
    pub fn new(names: Vec<String>) -> Result<TaskNames> {
        let names = TaskNames(names);
        names.check()?;
        Ok(names)
    }

    /// What [`TaskNames::new`] asks for; for names that were read from a file.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.is_empty() {
            return Err(Error::params("tasks", "there are none; name at least one"));
        }
        for (at, name) in self.0.iter().enumerate() {
            if name.trim().is_empty() || self.0[..at].contains(name) {
                return Err(Error::params("tasks", format!("the name {name:?} is empty or repeated")));
            }
        }
        Ok(())
    }

    /// All names, by number.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of the task of that name.
    ///
    /// # Errors
    /// `InvalidParams` that names the nearest known one and lists all.
    pub fn place(&self, name: &str) -> Result<usize> {
        if let Some(place) = self.0.iter().position(|known| known == name) {
            return Ok(place);
        }
        Err(Error::params("task", format!("there is no task {name:?}; {}", self.remedy(name))))
    }

    /// What to say to somebody who asked for a task that there is not.
    pub fn remedy(&self, name: &str) -> String {
        // Long texts are cut: the distance is quadratic, and no name is that long.
        let name: String = name.chars().take(100).collect();
        let all = self.0.join(", ");
        let near = self.0.iter().map(|known| (strsim::jaro_winkler(&name, known), known));
        match near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness > 0.7) {
            Some((_, near)) => format!("did you mean {near:?}? the tasks are {all}"),
            None => format!("the tasks are {all}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_by_task_and_keep_their_order_within_one() {
        let (rows, order) = TaskRows::sort(&[2, 0, 2, 0, 0], 4).unwrap();
        assert_eq!(order, [1, 3, 4, 0, 2]);
        assert_eq!((rows.of(0), rows.of(1), rows.of(2), rows.of(3)), (0..3, 3..3, 3..5, 5..5));
        assert_eq!(rows.present().map(|(task, _)| task).collect::<Vec<_>>(), [0, 2]);
        assert_eq!((rows.rows(), rows.tasks()), (5, 4));
        assert_eq!(TaskRows::single(2, 5, 4), TaskRows::sort(&[2; 5], 4).unwrap().0);
        assert!(TaskRows::sort(&[4], 4).unwrap_err().to_string().contains("task 4 does not exist"));
    }

    #[test]
    fn an_unknown_task_is_told_of_the_nearest_and_of_all() {
        let names = TaskNames::new(["products", "questions"].map(String::from).to_vec()).unwrap();
        assert_eq!(names.place("questions").unwrap(), 1);
        let message = names.place("product").unwrap_err().to_string();
        assert!(message.contains("\"products\"?") && message.contains("products, questions"), "{message}");
        assert!(!names.place("zzz").unwrap_err().to_string().contains("did you mean"));
        assert!(TaskNames::new(vec!["a".into(), "a".into()]).is_err() && TaskNames::new(Vec::new()).is_err());
    }
}
