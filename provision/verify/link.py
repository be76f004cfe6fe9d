"""The question of a neighbour on the same link: whether a host forwards a packet for an address that is not its own.

A published port can be gone around by a route (docs/facts.md#docker-ports). To ask, a neighbour would need such a
route, but verify changes no host. So the script sends the first packet of a TCP connection itself, with the host's
link address, by a packet socket (packet(7)), and ends the connection if an answer comes. Perl is part of every Debian
and Ubuntu (perl-base is essential).
"""

# Functions for a script: `asks_link HOST ADDRESS PORT SECONDS` returns 0 for an answer, 1 for a refusal, 124 for
# silence, `NO_LINK` if the host is behind a router or unknown on the link. Sets `source`.
NO_LINK = 3
SHELL = rf"""
frame() {{ # interface, link address of the host, own address, address, port, seconds
  perl -MSocket -e '
    use strict; use warnings;
    my ($link, $mac, $source, $address, $port, $seconds) = @ARGV;
    open(my $file, "<", "/sys/class/net/$link/ifindex") or exit {NO_LINK};
    my $index = <$file> + 0;
    my ($from, $to) = (inet_aton($source), inet_aton($address));
    my $hardware = pack("H12", $mac =~ s/://gr);
    my ($own, $sequence) = (32768 + int(rand(28000)), int(rand(2 ** 31)));
    socket(my $socket, 17, SOCK_DGRAM, unpack("S", pack("n", 0x0800))) or exit 126; # AF_PACKET, IPv4
    bind($socket, pack("SnlSCCa8", 17, 0x0800, $index, 0, 0, 0, "")) or exit 126;
    sub checksum {{
      my $sum = 0;
      $sum += $_ for unpack("n*", $_[0]);
      $sum = ($sum & 0xffff) + ($sum >> 16) while $sum >> 16;
      return ~$sum & 0xffff;
    }}
    sub put {{
      my ($flags, $number) = @_;
      my $tcp = sub {{ pack("nnNNCCnnn", $own, $port, $number, 0, 0x50, $flags, 64240, $_[0], 0) }};
      my $ip = sub {{ pack("CCnnnCCn", 0x45, 0, 40, 0, 0x4000, 64, 6, $_[0]) . $from . $to }};
      my $packet = $ip->(checksum($ip->(0))) . $tcp->(checksum($from . $to . pack("nn", 6, 20) . $tcp->(0)));
      send($socket, $packet, 0, pack("SnlSCCa8", 17, 0x0800, $index, 1, 0, 6, $hardware)) or exit 126;
    }}
    for (1 .. $seconds) {{
      put(0x02, $sequence);
      my $end = time + 1;
      while (time <= $end) {{
        my $ready = "";
        vec($ready, fileno($socket), 1) = 1;
        select($ready, undef, undef, 0.5) or next;
        defined recv($socket, my $packet, 2048, 0) or next;
        next if length($packet) < 40;
        my $head = (ord($packet) & 15) * 4;
        next if ord(substr($packet, 9, 1)) != 6 or substr($packet, 12, 8) ne $to . $from;
        my ($sender, $receiver, undef, undef, undef, $flags) = unpack("nnNNCC", substr($packet, $head) . "\0" x 20);
        next if $sender != $port or $receiver != $own;
        exit 1 if $flags & 0x04;
        next if ($flags & 0x12) != 0x12;
        put(0x04, $sequence + 1);
        exit 0;
      }}
    }}
    exit 124;
  ' "$@"
}}
asks_link() {{
  gate=$1
  case $gate in *[!0-9.]*) gate=$(getent ahostsv4 "$gate" | awk 'NR==1{{print $1}}') ;; esac
  route=$(ip -o route get "$gate" 2>/dev/null) || return {NO_LINK}
  case $route in *' via '*) return {NO_LINK} ;; esac
  source=$(printf '%s' "$route" | sed -n 's/.* src \([^ ]*\).*/\1/p')
  link=$(printf '%s' "$route" | sed -n 's/.* dev \([^ ]*\).*/\1/p')
  timeout 1 bash -c 'exec 3<>"/dev/tcp/$1/22"' ask "$gate" >/dev/null 2>&1 || : # the kernel learns the link address
  mac=$(ip neigh show "$gate" dev "$link" 2>/dev/null | sed -n 's/.*lladdr \([0-9a-f:]*\).*/\1/p')
  [ -n "$mac" ] || return {NO_LINK}
  frame "$link" "$mac" "$source" "$2" "$3" "$4"
}}
"""
