# git: init, commit, branch, merge, gc, clone of a local repository, push, stash, bisect.
set -u
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@x GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@x GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
git config --global init.defaultBranch main; git config --global protocol.file.allow always; git config --global advice.detachedHead false; git config --global core.pager cat
git init -q repo && cd repo
for i in $(seq 1 30); do echo "line $i" >>file; mkdir -p dir$((i % 3)); seq 1 $((i * 50)) >dir$((i % 3))/f$i; git add -A && git commit -qm "commit $i"; done
git log --oneline | wc -l; git rev-parse HEAD; git status --short | wc -l; git ls-files | wc -l
git checkout -qb side HEAD~5 && echo side >side && git add side && git commit -qm side && git checkout -q main && git merge -q --no-edit side && git log --graph --oneline | head -n 3
echo conflict >file; git commit -qam ours; git checkout -q side; echo other >file; git commit -qam theirs; git checkout -q main; git merge side >/dev/null 2>&1; echo "merge $?"; grep -c '^<<<<<<<' file; git checkout -q --ours file && git add file && git commit -qm resolved
git gc -q --aggressive && git count-objects -v | grep -E '^(count|in-pack|packs)'; git fsck --full 2>&1 | grep -v dangling; git repack -adq && git verify-pack -v .git/objects/pack/*.idx | tail -n 1 | cut -d: -f2
cd .. && git clone -q repo clone && cd clone && git rev-parse HEAD && git diff --stat HEAD~3 | tail -n 1 && git -C . branch -r | wc -l
git clone -q --bare ../repo ../bare.git && git remote add bare ../bare.git && echo new >new && git add new && git commit -qm new && git push -q bare HEAD:main && git --git-dir ../bare.git log -1 --format=%s main
git clone -q --depth 1 "file://$PWD/../bare.git" ../shallow && git -C ../shallow log --oneline | wc -l
echo dirty >>file && git stash -q && git status --short | wc -l && git stash pop -q && git diff --numstat; git checkout -q -- file; git tag -a -m v1 v1 && git describe; git archive HEAD | tar -t | wc -l; git blame -s file | tail -n 1; git grep -c 'conflict' | head -n 1
git bisect start HEAD HEAD~8 >/dev/null && git bisect run sh -c '! test -e new' 2>/dev/null | grep -c 'first bad'; git bisect reset >/dev/null 2>&1; git worktree add -q ../tree HEAD && ls ../tree | wc -l; git rm -q new && git commit -qm gone && git show --stat --format=%s | tail -n 1
