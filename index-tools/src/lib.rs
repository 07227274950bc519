//! What the offline commands share: argument types, progress bars and tables for people.
