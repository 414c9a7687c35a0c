# Perl: files, processes, pipes, signals, sockets, sorting, modules in C.
cat >t.pl <<'END'
use strict; use warnings; use POSIX qw(:sys_wait_h :signal_h floor strftime); use IO::Socket::UNIX; use IO::Select;
use File::Find; use File::Temp qw(tempdir); use File::Copy; use Time::HiRes qw(usleep time); use Digest::SHA qw(sha256_hex); use Fcntl qw(:flock SEEK_SET); use Socket; use Storable; use List::Util qw(sum reduce); use threads;
$| = 1;
my %h = map { $_ => length } qw(apple fig banana); print join(",", map { "$_=$h{$_}" } sort { $h{$a} <=> $h{$b} || $a cmp $b } keys %h), "\n";
my $pid = fork // die; if (!$pid) { exit 23 } waitpid $pid, 0; print "child ", $? >> 8, "\n";
pipe my $r, my $w; if (!fork) { close $r; print $w "line $_\n" for 1 .. 3; exit 0 } close $w; print "got $_" while <$r>; wait;
open my $p, "-|", "seq 3 | tac" or die; print "cmd $_" while <$p>; close $p; my $out = `echo backticks; exit 4`; print $out, $? >> 8, "\n";
{ local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; select undef, undef, undef, 10; }; print "eval: $@"; alarm 0 }
my $got = 0; $SIG{USR1} = sub { $got++ }; kill USR1 => $$ for 1 .. 5; print "signals $got\n"; system "kill -9 \$\$"; print "killed by ", $? & 127, "\n";
my $dir = tempdir(CLEANUP => 1); open my $f, "+>", "$dir/f" or die; print $f "x" x 1000, "\n"; flock $f, LOCK_EX or die; seek $f, 500, SEEK_SET; read $f, my $buf, 10; print "$buf ", -s "$dir/f", "\n"; truncate $f, 5; print -s "$dir/f", "\n";
mkdir "$dir/sub"; copy("$dir/f", "$dir/sub/g"); rename "$dir/sub/g", "$dir/h"; symlink "h", "$dir/l"; my @found; find(sub { push @found, $_ }, $dir); print join(" ", sort grep { !/^\.$/ && !/^[A-Za-z0-9_]{10}$/ } @found), "\n";
my $s = IO::Socket::UNIX->new(Local => "$dir/s", Listen => 1) or die; if (!fork) { my $c = IO::Socket::UNIX->new(Peer => "$dir/s") or die; print $c "over a socket\n"; print scalar <$c>; exit 0 } my $c = $s->accept; my $l = <$c>; print $c uc $l; close $c; wait;
socketpair my $s1, my $s2, AF_UNIX, SOCK_STREAM, PF_UNSPEC; syswrite $s1, "ready"; print scalar(IO::Select->new($s2)->can_read(1)), "\n";
print sha256_hex("abc"), " ", strftime("%F", gmtime 86400), " ", floor(-1.5), " ", sum(1 .. 100), " ", (reduce { $a * $b } 1 .. 10), "\n";
store { a => [1, 2, 3] }, "$dir/store"; print retrieve("$dir/store")->{a}[2], "\n"; my $t = time; usleep 50_000; print time - $t >= 0.05 ? "slept\n" : "woke early\n";
my @t = map { my $n = $_; threads->create(sub { my $x = 0; $x += $_ for 1 .. $n * 1000; $x }) } 1 .. 4; print join(" ", map { $_->join } @t), "\n";
my $text = join "", map { chr(97 + $_ % 26) } 0 .. 9999; my $n = () = $text =~ /[aeiou][^aeiou]/g; print "$n\n"; print sprintf("%s %05.2f %x %e", "fmt", 3.14159, 255, 12345.678), "\n"; printf "%vd\n", "1.22.333";
print "exists\n" if -e "/etc/passwd" && -r _ && !-d _; my @st = stat "/dev/null"; print $st[6], "\n"; opendir my $d, "/proc/self/fd" or die; print((grep { /^\d+$/ } readdir $d) >= 3 ? "fds\n" : "no fds\n");
sysopen my $x, "$dir/excl", O_CREAT | O_EXCL | O_WRONLY or die; print sysopen(my $y, "$dir/excl", O_CREAT | O_EXCL | O_WRONLY) ? "twice\n" : "$!\n"; exec "sh", "-c", "echo replaced; exit 6";
END
sed -i 's/Fcntl qw(:flock SEEK_SET)/Fcntl qw(:DEFAULT :flock SEEK_SET)/' t.pl
perl t.pl; echo "perl $?"
