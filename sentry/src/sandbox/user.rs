//! Users and groups by name, from the container's own `/etc/passwd` and `/etc/group`.

use super::StartError;
use crate::spec::{ProcessSpec, UserLookup};
use crate::task::Task;

/// Longest user database that is read, in bytes.
const DATABASE_MAX: usize = 4 << 20;

/// Who a process becomes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) home: Option<String>,
}

/// Finds out who the process becomes.
pub(super) fn resolve(task: &Task, spec: &ProcessSpec) -> Result<Ids, StartError> {
    let passwd = database(task, b"/etc/passwd");
    let Some(lookup) = &spec.user else {
        let home =
            passwd.lines().filter_map(parse_user).find(|user| user.uid == spec.uid).map(|user| user.home);
        return Ok(Ids {
            uid: spec.uid,
            gid: spec.gid,
            groups: spec.additional_gids.clone(),
            home: Some(home.unwrap_or_else(|| "/".into())),
        });
    };
    find(&passwd, &database(task, b"/etc/group"), lookup, &spec.additional_gids)
}

fn database(task: &Task, path: &[u8]) -> String {
    let bytes = super::mounts::read_file(task, path, DATABASE_MAX).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// `name:password:uid:gid:comment:home:shell` (`man 5 passwd`)
fn parse_user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?.to_owned();
    Some(User { name, uid, gid, home })
}

/// `name:password:gid:members` (`man 5 group`)
fn parse_group(line: &str) -> Option<Group> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let gid = fields.nth(1)?.parse().ok()?;
    let members = fields.next().unwrap_or_default().split(',').map(str::to_owned).collect();
    Some(Group { name, gid, members })
}

fn find(passwd: &str, group: &str, lookup: &UserLookup, additional: &[u32]) -> Result<Ids, StartError> {
    let number = lookup.user.parse::<u32>().ok();
    let by_name = passwd.lines().filter_map(parse_user).find(|user| user.name == lookup.user);
    let user =
        by_name.or_else(|| passwd.lines().filter_map(parse_user).find(|user| Some(user.uid) == number));
    let mut ids = match (&user, number) {
        (Some(user), _) => {
            Ids { uid: user.uid, gid: user.gid, groups: Vec::new(), home: Some(user.home.clone()) }
        }
        (None, Some(uid)) => Ids { uid, home: Some("/".into()), ..Ids::default() },
        (None, None) => {
            return Err(StartError::Invalid(format!(
                "unable to find user {}: no matching entries in passwd file",
                lookup.user
            )));
        }
    };
    let groups = || group.lines().filter_map(parse_group);
    match &lookup.group {
        Some(wanted) => {
            let number = wanted.parse::<u32>().ok();
            let found = groups().find(|group| &group.name == wanted).map(|group| group.gid);
            ids.gid = found.or(number).ok_or_else(|| {
                StartError::Invalid(format!(
                    "unable to find group {wanted}: no matching entries in group file"
                ))
            })?;
        }
        None => {
            if let Some(user) = &user {
                ids.groups =
                    groups().filter(|group| group.members.contains(&user.name)).map(|g| g.gid).collect();
            }
        }
    }
    ids.groups.extend(additional);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1001::/home/ann:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:ann,bob\nann:x:1001:\n";

    fn lookup(user: &str, group: Option<&str>) -> UserLookup {
        UserLookup { user: user.into(), group: group.map(str::to_owned) }
    }

    #[test]
    fn a_name_brings_its_groups_and_home() {
        let ids = find(PASSWD, GROUP, &lookup("ann", None), &[7]).expect("exists");
        assert_eq!(ids, Ids { uid: 1000, gid: 1001, groups: vec![50, 7], home: Some("/home/ann".into()) });
    }

    #[test]
    fn a_number_needs_no_entry_and_a_name_does() {
        let ids = find(PASSWD, GROUP, &lookup("4321", Some("staff")), &[]).expect("a number");
        assert_eq!((ids.uid, ids.gid), (4321, 50));
        assert!(find(PASSWD, GROUP, &lookup("nobody", None), &[]).is_err());
        assert!(find(PASSWD, GROUP, &lookup("ann", Some("wheel")), &[]).is_err());
    }
}
