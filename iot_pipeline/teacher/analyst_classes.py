"""What the embedded analyst knows of each class: how it shows in flows, what helps, which features speak for it.

Belongs here: domain knowledge of Farm-Flow's and RT-IoT2022's classes. Does not belong here: sentences about features.
No phrase holds a digit: every number of an answer comes from the flow.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Knowledge:
    """Clauses about a class, counsel in whole sentences, and features (or their beginnings) that speak for it."""

    facts: tuple[str, ...]
    counsel: tuple[str, ...]
    relevant: dict[str, float] = field(default_factory=dict)


def _knowledge(facts: str, counsel: str, relevant: str) -> Knowledge:
    weights = {name: 0.6 - 0.08 * place for place, name in enumerate(relevant.split())}
    return Knowledge(tuple(facts.split("|")), tuple(counsel.split("|")), weights)


CLASSES: dict[str, Knowledge] = {
    "Normal": _knowledge(
        "sensors report on a steady rhythm and get an answer to each message|both sides take part and neither is overrun"
        "|sessions of a farm broker are regular, complete and modest in volume|routine traffic has no need to hurry",
        "Nothing needs to be done beyond keeping the record as a baseline.|Such flows show what later ones are measured against.",
        "flow_iat.avg resp_pkts flow_pkts_per_sec flow_iat.tot down_up_ratio",
    ),
    "Arp_Spoofing": _knowledge(
        "an ARP spoofer puts itself between two hosts and relays or breaks their connections"
        "|connections that pass through a middleman appear cut short or out of step"
        "|relayed packets keep the options and payload of the honest host"
        "|the victim believes that it talks to its gateway",
        "Static ARP entries or inspection on the switch would stop the redirection.|The gateway's hardware address should be checked.",
        "fwd_header_size_max bwd_header_size_max orig_ip_bytes resp_ip_bytes flow_pkts_per_sec",
    ),
    "BotNet_DDOS": _knowledge(
        "many bots send the same small probe and wait for no answer|each bot adds a little and their sum exhausts the target"
        "|the senders are cheap devices under foreign control|bots repeat a packet without a session behind it",
        "Rate limits near the source and a search for infected devices are called for.|The senders should be isolated and cleaned.",
        "resp_pkts orig_pkts resp_ip_bytes flow_pkts_per_sec pkts_difference",
    ),
    "HTTP_Flood": _knowledge(
        "a web flood opens connections faster than the server can serve them"
        "|most connection attempts of a flood are never completed"
        "|the target's dashboard is kept busy with requests that nobody reads"
        "|an overloaded web server answers late, briefly or not at all",
        "A reverse proxy that limits connections for each client would blunt the attack.|The web service should be shielded by rate limits.",
        "resp_pkts flow_pkts_per_sec bwd_header_size_max orig_pkts resp_ip_bytes",
    ),
    "ICMP_Flood": _knowledge(
        "an echo flood makes the victim answer again and again|echo traffic has short headers and little content"
        "|the victim's own connections are closed or delayed meanwhile"
        "|requests and replies alternate as long as the victim keeps up",
        "Limiting echo requests at the border would take the pressure off.|Echo traffic from unknown hosts should be dropped.",
        "resp_pkts orig_pkts fwd_header_size_max down_up_ratio orig_ip_bytes",
    ),
    "MQTT_Flood": _knowledge(
        "a broker flood opens session after session to exhaust the message broker"
        "|the broker spends memory on each connection that is announced"
        "|connection requests with many options come without a session to follow"
        "|sensors lose their broker when it is busy with strangers",
        "Authentication and a limit on connections would protect the broker.|The broker should refuse clients that it does not know.",
        "fwd_header_size_max orig_pkts resp_pkts fwd_header_size_min fwd_pkts_payload.tot",
    ),
    "Port_Scanning": _knowledge(
        "a scanner sends one probe for each port and moves on|closed ports answer with a short reset or stay silent"
        "|a scan exchanges headers, hardly ever content|probes are fast because the scanner waits for nothing",
        "The scanned host should close what it does not need.|A scan often comes before an attack, so its sender deserves attention.",
        "flow_pkts_per_sec fwd_pkts_payload.tot orig_pkts bwd_header_size_max fwd_header_size_max",
    ),
    "TCP_Flood": _knowledge(
        "a transport flood sends segments that belong to no session|the sender does not care whether anything comes back"
        "|segments come in bursts with bare headers|the target spends its effort on segments that lead nowhere",
        "Cookies for connection requests and filters for stray segments would help.|Stray segments should be dropped at the border.",
        "fwd_pkts_payload.tot pkts_difference resp_pkts flow_iat.avg orig_pkts",
    ),
    "UDP_Flood": _knowledge(
        "a datagram flood needs no handshake and expects no answer|datagrams carry short headers and arbitrary content"
        "|the target wastes effort on datagrams for closed ports|the sender's address is easily forged",
        "Datagrams to unused ports should be dropped before they reach the host.|Limits for each source would contain the flood.",
        "fwd_header_size_max pkts_difference resp_pkts fwd_pkts_per_sec fwd_pkts_payload.tot",
    ),
    "DOS_SYN_Hping": _knowledge(
        "a packet tool sends connection requests from ever new ports|each request leaves a half-open entry at the target"
        "|the tool never completes a handshake|crafted requests all look alike",
        "Cookies for connection requests would keep the table of the target free.|The sender should be blocked upstream.",
        "flow_pkts_per_sec fwd_pkts_payload.tot resp_pkts orig_pkts fwd_header_size_max",
    ),
    "Thing_Speak": _knowledge(
        "a device reports its measurements to a cloud service in complete sessions"
        "|requests of modest size are answered by the service|such uploads repeat at a calm pace"
        "|handshake, upload and reply all take place",
        "This is wanted traffic and needs no action.|It can serve as a baseline for cloud uploads.",
        "resp_ip_bytes fwd_pkts_payload.tot flow_iat.avg orig_pkts resp_pkts",
    ),
    "ARP_poisioning": _knowledge(
        "a poisoned address table leads traffic through the attacker|a middleman delays, repeats or drops what it relays"
        "|redirected sessions keep their content but lose their rhythm|hosts keep talking because nothing tells them of the detour",
        "Address tables should be pinned or inspected by the switch.|The hardware address behind the gateway should be verified.",
        "flow_iat.avg fwd_header_size_max bwd_header_size_max orig_ip_bytes flow_iat.tot",
    ),
    "MQTT_Publish": _knowledge(
        "a client publishes to its broker in a short and complete session|small messages are acknowledged one by one"
        "|publishing keeps both sides in balance|a broker session has more packets than content",
        "This is wanted traffic and needs no action.|It can serve as a baseline for broker sessions.",
        "orig_pkts resp_pkts fwd_pkts_payload.avg flow_iat.tot down_up_ratio",
    ),
    "NMAP_UDP_SCAN": _knowledge(
        "a datagram scan probes ports that seldom answer|probes carry short headers and little content"
        "|silence of the target is what the scanner expects|each probe is a flow of its own",
        "Unused datagram ports should be closed and their replies limited.|The scanner's next steps should be watched.",
        "fwd_header_size_max resp_pkts fwd_pkts_payload.tot flow_iat.avg orig_pkts",
    ),
    "NMAP_XMAS_TREE_SCAN": _knowledge(
        "a probe with unusual flags tests how a host reacts|closed ports answer with a reset and open ones stay silent"
        "|no honest client sends such a combination of flags|the probe carries no content",
        "Segments with senseless flags should be dropped.|The scanner's next steps should be watched.",
        "flow_pkts_per_sec fwd_header_size_max bwd_header_size_max fwd_pkts_payload.tot resp_pkts",
    ),
    "NMAP_OS_DETECTION": _knowledge(
        "crafted probes reveal which system a host runs|options and order of the headers matter, not content"
        "|the answers to odd probes differ from system to system|a series of short probes goes to the same host",
        "Normalising odd segments at the border hides the system.|The scanner's next steps should be watched.",
        "fwd_header_size_max flow_pkts_per_sec bwd_header_size_max fwd_pkts_payload.tot orig_pkts",
    ),
    "NMAP_TCP_scan": _knowledge(
        "a connect scan asks port after port whether it is open|a reset from a closed port ends the exchange at once"
        "|a scan exchanges headers, hardly ever content|the scanner moves on as soon as it knows",
        "The scanned host should close what it does not need.|The scanner's next steps should be watched.",
        "flow_pkts_per_sec fwd_header_size_max resp_pkts bwd_header_size_max fwd_pkts_payload.tot",
    ),
    "DDOS_Slowloris": _knowledge(
        "a slow attack keeps connections open with as little as possible|the server waits for the rest of a request"
        "|a few bytes now and then are enough to hold a connection|all places of the server are taken by idle clients",
        "Time limits for incomplete requests would free the server.|The number of connections for each client should be limited.",
        "flow_iat.tot flow_iat.avg fwd_pkts_payload.tot orig_pkts fwd_pkts_per_sec",
    ),
    "Wipro_bulb": _knowledge(
        "a smart bulb keeps in touch with its cloud by short messages|keep-alive traffic is regular and small"
        "|commands and acknowledgements alternate|a household device speaks to few partners",
        "This is wanted traffic and needs no action.|It can serve as a baseline for the device.",
        "flow_iat.avg fwd_pkts_payload.avg resp_pkts orig_pkts flow_iat.tot",
    ),
    "Metasploit_Brute_Force_SSH": _knowledge(
        "a guessing tool opens session after session and tries passwords|each attempt is a full handshake and an early end"
        "|key exchange moves content in both directions|an interactive user would neither hurry nor repeat so evenly",
        "Keys in place of passwords and a lock after failures would end it.|The accounts concerned should be checked.",
        "fwd_pkts_payload.tot bwd_pkts_payload.tot orig_pkts resp_pkts flow_iat.avg",
    ),
    "NMAP_FIN_SCAN": _knowledge(
        "a lone closing segment tests ports without a connection|closed ports answer with a reset and open ones stay silent"
        "|the probe tries to slip past simple filters|no session stands before the closing segment",
        "Stray closing segments should be dropped.|The scanner's next steps should be watched.",
        "flow_pkts_per_sec fwd_header_size_max resp_pkts fwd_pkts_payload.tot bwd_header_size_max",
    ),
}
GENERIC = _knowledge(
    "traffic of one class leaves similar traces in size, timing and balance|hostile traffic seldom waits for answers"
    "|the relation of both directions tells who drives the exchange|timing betrays automation",
    "Flows of the same sender should be compared.|The record should be kept for comparison.",
    "resp_pkts flow_pkts_per_sec orig_pkts fwd_header_size_max flow_iat.avg",
)


def knowledge(label: str) -> Knowledge:
    """What is known of a class; something general for a class unknown here."""
    return CLASSES.get(label, GENERIC)
