//! Module images, the rules of an update, the planner, and the commands around them.

mod commands;
mod common;
mod doctor;
mod facts;
mod files;
mod intel;
mod planner;
mod rules;
mod served;
mod updates;
