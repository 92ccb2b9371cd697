"""Words that prose about flows uses as words: a feature named like one is meant only where it is cited."""

_WORDS = """
    abnormally about above absorb abundant abused abusive accept according accordingly account accounts ack
    acknowledgement acks act acting action active activity actually add added addition address addresses adds
    adversary advice after again against age agree agreement agrees aim alarm alarmed alert alerts alike all allow
    allows almost alone already also alternate alternation alternative although amiss among amount amounts ample an
    analysis analyst and annotation another answer answered answering answers any anybody anyone anything apart
    appear application applications apposition are argue argument around arp artificial as aside ask asked asks
    assault assessment assignment astray at attack attacked attacker attacks attribute authentication author authors
    automated average awaited away back background backticks backward bad balance balanced ballast bandwidth bare
    baseline be bears because becomes been before beforehand begin beginning begins begun behaves behaviour behind
    being belong belongs below beneath benign beside besides best betray betrays better between beyond bidirectional
    bit bits block blocked bot both botnet bots breach break breaks brief bring brings broker brute builds bulb bulk
    burst busy but by byte bytes caches call called came can cannot cap capacity capital capped capture captures
    carries carry case catch category caught causes certain chance change changed changes character check checked
    choice choose chosen citation citations cite cited citing claims class classes classification classified clauses
    clean clear clearly client clients climbs close closed closely closer closing cloud cluster code collapses
    colossal combination combinations combined combines come comes command commands comment commits communicated
    communication compact compare compared comparing complete completed completes completing completion conclude
    conclusion conduct confirm connect connected connecting connection connections connects considerable considered
    consistent consists constant contains content context contradicted contradicts contrast contrasts contribute
    contributes control controls conversation convince cookies cope copes copied correct correlation cost costs
    could count counter counts covariance crafted crafting credentials criminal cripple current curtailed cut cycle
    damage danger dangerous data datagram datagrams dates day ddos decide decides declines decreased defender delay
    deliver delivered denial density depart departs depend depressed depth describe deserves detail details
    detection detour deviation device devices dhcp differ difference different digits diminished dip dips directed
    direction directions discarding disclosed discussed disguise distance distributed divert diverted dns do does
    done door doubles doubt down draw drawn draws drift driven drop dropped drops duration dwindle dwindles dynamic
    each eager earlier easily easy ebbs echo editor effort either elevated else elsewhere embedded emerges emits
    empty enable encoding encrypted end ends energy engineers enormous enough entirely entries entropy entry equal
    equals error errors even ever every everyday everything evidence evil exact exactly exaggerated examine examined
    example exceeds excessive exchange exchanged exchanges exhaust exhausts expect expected experience expert
    explain explained explains explanation explanations exploit expressions extremely fact facts fail failed
    failures faint fall fallen falls false family far farm fast faster fear feature features fell fetches few fewer
    field fields figure file files filler fills filter filters fin find finds fine fingerprint fingerprinting finish
    finishing firewall firm first fit fits fixed flag flags flood flooded flooding floods flow flows follow followed
    follows for force foreign forged form forth forward found fragment frame frames free frequency friendly fro from
    full further furthermore gains gap gaps gateway gave general generally generated generator generic gets give
    given gives glossary glove go goes going gone good great greater ground group groups grow grown guess guessed
    guessing guest habits hacker half hallmarks handed hands handshake handshakes happened hard harder hardly harm
    harmless has haste have having header headers health healthy heard heavier heavy height heightened held help
    hence here hide high higher hint hints hold holds honest hopes host hostile hosts hot how http https huge
    humidity hurry hurt hurts icmp identical identifiers identify idle if igmp ignore ignored imitate immense
    impossible in increased indicates indicators infected infer inferred inflated informed innocent inspect
    inspection instructed instructions intended intense intent intention intentions interface interval into intruder
    intrusion invented involved iot ip irc is it items its itself jitter job join joint joints judged jump jumps
    just justify keep keeps kept key keys kind knocks know knowing knowledge known knows label labelled labels lack
    laid land language large last latency latitude layer lead leads leans learns least leave leaves left legitimate
    leisure length less let level lie lies light like likewise limit limits line link list listens little llc load
    loaded local location log logged login lone long longer longitude look looked looking looks loop lopsided lose
    loss lost lot low machine made magnitude magnitue make makes makings malice malicious malware management many
    mark markdown marked marks mass masses massive match matches matter matters max maximum may me meagre mean
    meaning means measure measured measurement measurements measuring median meet memory mention mentioned message
    messages metadata method middle might min mind minimal minimum minuscule minute mischief mislead missing mistake
    mode model modest monitoring monotony more moreover most motion moved mqtt much must mutations mute mutual my
    name named namely names narrows natural nature near nearly need needed needs negative negligible neighbouring
    neighbours neither network never new next nmap no nobody noise none nor norm normal nosedives not notably note
    nothing noting noun nowhere number numbers object objects observer obvious occupied occur occurs odd odds of off
    offensive offset often ok on once one ones only open opened opening openings opens operating operator operators
    opposite options or order ordinary origin originator os other our out outcome outlay outside outweighs over
    overload overloaded overloading overloads overshoots oversized overturn own pace packet packets paltry paragraph
    parentheses part parts pass passes password passwords past patience pattern pause pauses payload peace peaks
    people per percentages percentile perfect perfectly period person phrases picked picture piece pieces pile pin
    ping pings pinned place plain play plentiful plummets point pointless points poisoned poisoning poisons port
    ports poses position positive pour power practice predetermined prefers present pressure prevail prevails
    printed prior priority probe probes probing produce produced produces profile progress prompt properly protocol
    prove provided proxy psh publication publications publish publishes publishing pulls purpose push pushed pushes
    put puts quality quantile query question quick radius ran range ranked ranks rapid rarely rate rates rather
    ratio ratios reach reaches react reaction reacts read reader reading readings reads real reason reasoning
    reasons received receives recognises reconnaissance record recorded reduce reduced reference reflects regardless
    registers regular relation relayed remains remarkably remarks remember repeat repeated repeats repetition
    replaced replies reply report reporting reports request requester requests require reset resets respect
    responder rest rests return reveal reveals reverse rewrite rewrites rewritten rhythm right rise risen risk
    rockets roof room root round routine rst rule rules run runs rushed safe said same sampling say saying says
    scales scan scanner scanning scant scarce score screams script search second seconds security see seen sees
    segment segments seldom semicolons send sender sending sends sense sensor sensors sent sentence sentences
    separate separated sequence serialisation serve served server serves service session sessions set sets setting
    settle settles several severity shape share shares sharp sharply shell shells shoots short shorten should show
    showing shows shrink shrinks shrunken side sided sides sign signal signalled signalling signals signature
    silence silent similar simple simply since single singly sinks sits size sizeable sizes skew skewness skip
    skyrockets slips slope slow slowloris small smaller smart smtp so soars soberly somebody someone something soon
    source spacing spare sparing sparse speak speaks speed spell spends spike spikes spoke spoofed spoofing spread
    srate ssh stack staff standard standardised stands stares start starts state stated stateful status stays std
    steady stealth step steps stop story stream strength strikingly string strongest structure subscribed
    subscribers substance succession such suffered suggests sum sums supplied support supports sure surface surge
    surges surroundings suspicious swells switch switched switches syn system table tables take taken takes taking
    talk talks target task tcp teacher technical telemetry tell telling tells telnet temperature templates tend term
    test text textbook texts than that the their them themselves then there therefore these they thin think third
    this thoroughly those though threat three thresholds through throughput throwing thus tied tight tilted time
    timeout times timing tiny tips tls to together told too took tool tools total touch touches towering towers
    trace traces track traffic training trait transfer transport travel tree tried tries true truth try trying ttl
    tumbles turned turns two type typical udp unchanged uncommon under undersized understated uneven unhurried
    uniform unit unknown unlike unmentioned unnatural until unused unusual unusually up uploads urg urgent us usage
    use used useful user uses usual usually vain value values vanishingly variance variation varied varies vary vein
    velocity verdict version very victim visible voltage volume wait waiting waits wanted wants war was watch
    watched watching way ways we weapon web weigh weight weighted well went were what whatever when where whereas
    whether which while who whoever whole whose why width will window with within without wording wordings words
    work worker workers works worry worth would wrong wrote xmas yes yet you your zero zone
"""
PROSE_WORDS = frozenset(_WORDS.split())
