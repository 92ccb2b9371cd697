"""Words of the checks of prose by the part that they play: verdicts and comparisons, and mentions of the given label.

A list belongs to one symbol of an alphabet (`symbols.Alphabet`); the rules over these symbols stand in `verdicts` and
`given`. `stem*` takes every word that begins so. Words of degree stand in `degree_words`.
"""

from iot_pipeline.augmentation.symbols import Alphabet, Phrases

# Fixed phrases by the word that they mean. Each begins with letters, so that a text is searched fast.
PHRASES = Phrases(
    {
        "surely": r"""
            almost (?:certainly|surely|definitely) ; nearly certainly ;
            (?:no|without(?: an?y?| the slightest)?|beyond(?: an?y?)?) (?:reasonable )?(?:doubt|question) ;
            (?:little|hardly any|out of|past) (?:reasonable )?(?:doubt|question) ;
            (?:leaves?|leaving) no (?:doubt|choice|question) ; not only ; not just ; not merely ; not least ;
            no wonder ; no mistake ; (?:what|who) else (?:but|than|except) ; (?:cannot|can not|can't) help but ;
            nothing less than ; none the less ; nonetheless ; no less ; no matter ;
            (?:nothing|none) (?:but|other than|else than|else but|short of) ; all but
        """,
        "normal": r"""
            within (?:the |its |their |all )?(?:normal|usual) (?:limits|bounds|parameters|ranges?) ;
            within (?:the |its |their |all )?(?:expected|ordinary|regular) (?:limits|bounds|parameters|ranges?)
        """,
        "worry": r"""
            lose (?:any |much )?sleep
        """,
        "compound": r"""
            (?:high|low|short|long|large|small|half|heavy|empty)-(?!end)[a-z]+
        """,
        "except": r"""
            other than ; else than ; apart from ; aside from ; save for
        """,
        "not": r"""
            (?:wrong|incorrect|misleading|unfair|unjustified|premature|absurd) to ; far from ; anything but ;
            anything except ; everything but ; by no means ; in no way ; in no respect ; under no circumstances ;
            nowhere near ; not in the least ; no longer ; not at all ; out of the question ; does away with ;
            free (?:of|from) ; none of ; no one ; no sort of ; the opposite of ; a far cry from ; not exactly ;
            not quite
        """,
        "exclude": r"""
            considered,? (?:and|but|yet) (?:then |finally |later |also )?(?:set aside|dismissed) ;
            (?:weighed|examined),? (?:and|but|yet) (?:then |finally |later |also )?(?:set aside|dismissed) ;
            considered,? (?:and|but|yet) (?:then |finally |later |also )?(?:discarded|rejected|excluded) ;
            (?:weighed|examined),? (?:and|but|yet) (?:then |finally |later |also )?discarded ;
            (?:weighed|examined),? (?:and|but|yet) (?:then |finally |later |also )?(?:rejected|excluded) ;
            (?:tested|checked),? (?:and|but|yet) (?:then |finally |later |also )?(?:set aside|dismissed) ;
            discussed,? (?:and|but|yet) (?:then |finally |later |also )?(?:set aside|dismissed) ;
            taken into account,? (?:and|but|yet) (?:then |finally |later |also )?(?:set aside|dismissed) ;
            (?:tested|checked),? (?:and|but|yet) (?:then |finally |later |also )?(?:discarded|rejected|excluded) ;
            discussed,? (?:and|but|yet) (?:then |finally |later |also )?(?:discarded|rejected|excluded) ;
            taken into account,? (?:and|but|yet) (?:then |finally |later |also )?(?:discarded|rejected|excluded) ;
            (?:considered|weighed|examined),? (?:and|but|yet) (?:then |finally |later |also )?ruled out ;
            considered,? (?:and|but|yet) (?:then |finally |later |also )?(?:dropped|found wanting) ;
            (?:weighed|examined),? (?:and|but|yet) (?:then |finally |later |also )?(?:dropped|found wanting) ;
            considered,? (?:and|but|yet) (?:then |finally |later |also )?(?:does not|do not|did not) ;
            (?:weighed|examined),? (?:and|but|yet) (?:then |finally |later |also )?(?:does not|do not|did not) ;
            (?:tested|checked),? (?:and|but|yet) (?:then |finally |later |also )?ruled out ;
            (?:tested|checked),? (?:and|but|yet) (?:then |finally |later |also )?(?:dropped|found wanting) ;
            (?:discussed|taken into account),? (?:and|but|yet) (?:then |finally |later |also )?ruled out ;
            discussed,? (?:and|but|yet) (?:then |finally |later |also )?(?:dropped|found wanting) ;
            taken into account,? (?:and|but|yet) (?:then |finally |later |also )?(?:dropped|found wanting) ;
            (?:tested|checked),? (?:and|but|yet) (?:then |finally |later |also )?(?:does not|do not|did not) ;
            discussed,? (?:and|but|yet) (?:then |finally |later |also )?(?:does not|do not|did not) ;
            taken into account,? (?:and|but|yet) (?:then |finally |later |also )?(?:does not|do not|did not) ;
            rul(?:e|es|ed|ing) out ; (?:speaks?|argues?|militates?|weighs?) against
        """,
        "unlike": r"""
            rather than ; instead of ; in place of ; (?:as )?opposed to ; in (?:contrast|comparison) (?:to|with) ;
            by contrast with ; contrary to ; compared (?:to|with) ; out of (?:step|line|keeping|character) ;
            at odds with ; less like ; less typical of ; (?:might|could|may) (?:\w+ )?think of ;
            alternative(?: reading| class| explanation)?,? ; (?:poses?|posing|pass(?:es|ing)?) as ;
            might be taken for ; could be taken for ; sets? aside ; set apart from ; away from
        """,
        "usually": r"""
            once in a while ; from time to time ; now and then ; every so often ; as a rule
        """,
        "lies": r"""
            falls? (?=(?:at|within|in|into|on|under|among|outside|below|above|over)\b)
        """,
        "maximal": r"""
            off the (?:charts?|scale) ; through the (?:roof|ceiling) ;
            (?:in|at|on) the (?:top|upper|higher|high) (?:end|tail|part|half|quarter|decile|range|region|side) ;
            (?:among|of|from) the (?:highest|largest|biggest|greatest)(?: ones)? ; maxed out ; piles? up ; blown up ;
            (?:a lot|lots|plenty|a great deal) of ; on top ; way up ; well up ; sky high ; not little ; not few ;
            (?:very|so) much ; (?:goes|went|is|gone|shot|shoots?) (?:very|way|far|right|sharply|much) up
        """,
        "minimal": r"""
            (?:near|nearly|close to|next to) (?:zero|no|nil|nothing|non-?existent|absent) ;
            (?:virtually|almost|practically|basically) (?:zero|no|nil|nothing|non-?existent|absent) ;
            (?:hardly|barely|scarcely) (?:any|registers?|registered|there) ;
            (?:hardly|barely|scarcely) (?:measurable|noticeable|exists?|present|worth mentioning) ;
            on the (?:floor|ground) ; at the bottom ;
            (?:in|at|on) the (?:bottom|lower|low) (?:end|tail|part|half|quarter|decile|range|region|side) ;
            (?:among|of|from) the (?:lowest|smallest|fewest)(?: ones)? ; only a little ; bottomed out ;
            (?:has |have )?dried up ; few and far between ;
            (?:goes|went|is|gone) (?:very|way|far|right|sharply|much) down ; way down ; well down ; not much ;
            not many ; rock[- ]bottom
        """,
        "exceeds": r"""
            leaves? the (?:average|median|mean|norm|usual|rest) (?:far |well )?behind ; north of ; in excess of
        """,
        "trails": r"""
            (?:stays?|lies|remains?|stands) (?:far |well )?behind(?= the\b) ; south of ;
            (?:falls? |falling |fell )?short of ; shy of ; lags? (?:far )?behind ;
            (?:does not|did not|fails? to|cannot) (?:reach|meet|attain|match|approach|come up to)
        """,
        "harmless": r"""
            (?:is|are|was) (?:just|only|merely|simply) (?:an? |some |the |another )?(?:\w+ )?(?:device|sensor) ;
            (?:is|are|was) (?:just|only|merely|simply) (?:an? |some |the |another )?(?:\w+ )?client ;
            (?:is|are|was) (?:just|only) (?:an? |some |the |another )?(?:\w+ )?(?:telemetry|chatter) ;
            (?:is|are|was) (?:merely|simply) (?:an? |some |the |another )?(?:\w+ )?(?:telemetry|chatter) ;
            (?:is|are|was) (?:just|only|merely|simply) (?:an? |some |the )?(?:\w+ )?(?:traffic|polling) ;
            (?:is|are|was) (?:just|only|merely|simply) (?:an? |some |the )?(?:\w+ )?reporting ;
            (?:is|are|was) (?:just|only|merely|simply) (?:an? |some |the )?(?:\w+ )?(?:housekeeping|noise) ;
            above suspicion ; beyond reproach ; plays? by the rules ; in (?:\w+ )?order(?! (?:to|that|of)\b) ;
            (?:hurt|harm|bother|threaten|endanger)s? (?:nobody|no one|none|nothing|anyone at all) ;
            well[- ](?:meaning|meant|intentioned|behaved|kept|functioning|working) ;
            what (?:it|they) (?:was|is|are|were) (?:designed|built|made|meant) (?:to|for) ;
            what (?:it|they) (?:was|is|are|were) (?:supposed|programmed|configured|intended) (?:to|for) ;
            false (?:positives?|alarms?) ; business as usual ;
            nothing (?:more(?! than)|unusual|special|strange|odd|remarkable|new|exciting|out of the ordinary) ;
            (?:just|only) (?:a|the) (?:sensor|device|client|bulb) (?:at work|doing \w+) ;
            nothing to (?:see|worry|fear|report|hide|add to the watchlist)(?: about| from)? ;
            (?:all|everything) (?:is |seems |looks )?(?:clear|well|quiet|okay|ok|fine|good|as it should) ;
            no (?:action|intervention|response|mitigation) (?:is |are )?(?:needed|required) ;
            no (?:action|intervention|response|mitigation) (?:is |are )?(?:necessary|called for|warranted) ;
            no (?:countermeasures?|measures?) (?:is |are )?(?:needed|required|necessary|called for|warranted) ;
            no (?:escalation|follow-up|reason to (?:act|worry)) (?:is |are )?(?:needed|required) ;
            no (?:escalation|follow-up|reason to (?:act|worry)) (?:is |are )?(?:necessary|called for|warranted) ;
            (?:does|do|doing|did) (?:its|their|his|her) (?:job|work|duty) ;
            (?:as|how|what|like|the way) (?:it|they|he|she|one) (?:should|must|shall) ;
            (?:as|how|what|like|the way) (?:it|they|he|she|one) (?:ought to|is supposed to) ;
            (?:as|how|what|like|the way) (?:it|they|he|she|one) (?:are supposed to|is meant to) ;
            (?:its|their) (?:intended|designed|assigned|normal|usual) (?:function|purpose|role|job|work|task) ;
            means? (?:well|no harm|nothing bad) ; at peace ; (?:in )?good faith ; bona fide ;
            (?:can|may|should|could) (?:safely )?be (?:ignored|whitelisted|trusted|allowed|let through) ;
            (?:safe|okay|ok|fine) to (?:ignore|allow|trust|pass) ; known good ; no issues? ; no problems? ;
            known-good ; day to day ; everyday life ; good (?:citizen|intentions?) ; thumbs up ; green light ;
            above board ; no harm ; run of the mill ; part of the (?:daily )?routine ;
            daily (?:business|routine|work) ; like (?:every|any|all) others? ;
            like (?:any|every) (?:\w+ )?(?:device|sensor|client|host|user) ; sensor at work ; device at work ;
            just (?:a|another) (?:sensor|device|client|bulb|user)
        """,
        "malicious": r"""
            break-?ins? ; up to no good ; (?:true|confirmed) positives? ; red flags? ;
            bad (?:actors?|things?|faith|intent\w*|guys?) ; ill (?:intent\w*|will) ; foul play ;
            under (?:attack|fire|siege|assault) ;
            (?:bring|brings|bringing|take|takes|taking|knock)\w* (?:\w+ ){1,3}?(?:down|out|offline)\b ;
            (?:knocks|knocking|shut|shuts|shutting|tear|kick)\w* (?:\w+ ){1,3}?(?:down|out|offline)\b ;
            (?:break|breaks|breaking|broke|broken) (?:in|into|through) ;
            (?:come|comes|get|gets|got|sneak|sneaks) (?:in|inside|access) illegally ;
            (?:come|comes|get|gets|got|sneak|sneaks) (?:in|inside|access) unlawfully ;
            (?:come|comes|get) in (?:without (?:permission|authori[sz]ation|consent|being (?:asked|invited))) ;
            come (?:inside|access) (?:without (?:permission|authori[sz]ation|consent|being (?:asked|invited))) ;
            (?:comes|get) inside (?:without (?:permission|authori[sz]ation|consent|being (?:asked|invited))) ;
            (?:comes|get) access (?:without (?:permission|authori[sz]ation|consent|being (?:asked|invited))) ;
            (?:gets|got) in (?:without (?:permission|authori[sz]ation|consent|being (?:asked|invited))) ;
            (?:gets|got) inside (?:without (?:permission|authori[sz]ation|consent|being (?:asked|invited))) ;
            (?:gets|got) access (?:without (?:permission|authori[sz]ation|consent|being (?:asked|invited))) ;
            (?:sneak|sneaks) in (?:without (?:permission|authori[sz]ation|consent|being (?:asked|invited))) ;
            (?:sneak|sneaks) inside (?:without (?:permission|authori[sz]ation|consent|being (?:asked|invited))) ;
            (?:sneak|sneaks) access (?:without (?:permission|authori[sz]ation|consent|being (?:asked|invited))) ;
            act of (?:war|aggression|sabotage) ; without (?:permission|authori[sz]ation|consent) ; taken over ;
            take-?over ; takes over ; out of service ;
            (?:must|should|has to|needs to|ought to) be (?:blocked|stopped|isolated|quarantined|banned|cut off) ;
            (?:block|isolate|quarantine|ban|contain|disconnect|blacklist) (?:it|the|this|that|him) ;
            at once and (?:block|isolate) ; means? harm ; (?:break|wreck|smash|ruin|sink)s? (?:the|its|our) ;
            means? (?:ill|trouble|no good) ; fall(?:s)? down ; no friend ; not a friend
        """,
        "c2": r"""
            denial[- ]of[- ]service ; man[- ]in[- ]the[- ]middle ; brute[- ]?forc\w* ; command and control ;
            lateral movement
        """,
        "attackers": r"""
            attack(?:er'?s?'?)? tool\w* ; attacking tools
        """,
        "groundtruth": r"""
            ground[- ]truths? ; answer key ;
            what (?:was|is|has been|had been) (?:stated|said|given|told|specified|provided|supplied)(?! by) ;
            (?:because|since|that) it (?:stands|says|reads) (?:in|on) the (?:data|file|table|record|csv|list|sheet) ;
            (?:because|since|that) it is (?:written|noted|stated|marked|recorded) (?:in|on) the (?:data|file|table) ;
            (?:target|class|label) (?:variable|column|attribute|field) ;
            information (?:provided|given|supplied)(?! (?:by|in)) ; (?:provided|given|supplied) information
        """,
        "dataset": r"""
            data ?sets?
        """,
        "accompanied": r"""
            (?:came|comes?|coming|arrive[sd]?) (?:along |together )?with(?= (?:its|the|a)\b) ;
            (?:shipped|ships|travels|travelled) (?:along |together )?with(?= (?:its|the|a)\b)
        """,
        "alone": r"""
            by itself ; by themselves ; in itself ; in themselves ; per se ; on its own ; on their own ; taken alone ;
            in isolation ;
            at first (?:glance|sight) ; on the surface
        """,
    }
)

_FLOW = (  # what a flow is used for
    "flow activity behaviour behavior communication conversation traffic interaction usage use operation telemetry"
    " chatter polling reporting business dialogue browsing surfing messaging talk contact service uploads network work"
    " values metrics features numbers figures data packets"
)
_FORM = (  # what a flow is
    "connection session exchange record transmission transaction pattern process request profile entry event capture"
    " sample case picture situation stream transfer upload link publication thing row class category label"
)
_HOST = (
    "device host client sensor sender source originator responder endpoint node machine peer user bulb server broker"
    " application app program controller gateway camera actuator initiator party system publisher subscriber meter"
    " human person people actor"
)
_BENIGN = (
    "benign* harmless* innocuous* innocent* legit legitimate legitimately legitimacy lawful* inoffensive unsuspicious"
    " trustworthy trusted friendly peaceful* peace safe safely blameless guiltless honest well-meaning decent"
    " uneventful fp authorised authorized permitted sanctioned whitelist* allowlist* unobjectionable nonmalicious"
    " uncompromised unproblematic kosher unthreatening nonthreatening unharmful amicable"
)
_NORMAL = (
    "normal normality normalcy ordinary routine routinely everyday daily day healthy clean fine ok okay good correct"
    " unremarkable mundane acceptable orderly sound usual intended proper unexceptional inconspicuous unspectacular"
    " nominal civilised calm green"
)
_ATTRIBUTE = "expected regular standard genuine customary conventional habitual household"
_MALICE = (
    "malicious* malice maliciously hostil* nefarious rogue illegitimate adversar* weaponi* suspicious* suspect"
    " suspected malware evil abus* sabotag* culprit* perpetrator* offender* villain* penetrat* steal* stolen theft"
    " crippl* paraly* disrupt* infect* compromis* intruder intrusion* intrusive hacker hacked hacking hack hijack*"
    " tamper* crimin* crime sinister threat threatening threatens attack attacking attacked cyberattack* attacker"
    " offensive assault* aggress* exploit exploits exploited exploiting exploitation harmful danger* destroy*"
    " destruct* kill* crash* exhaust* overwhelm* overload* hammer* cyber* breach* raid* illicit illegal* unlawful"
    " unauthorised unauthorized forbidden anomal* abnormal* enemy enemies invad* invasion mischief mischievous damag*"
    " wrongdo* misbehav* misconduct misuse* violat* espionage spy* spies fraud* malign* vicious corrupt* subvert*"
    " saboteur* assail* aggressor* ammunition ambush* hostage* stealthy infiltrat* bombard* swamp* cheat* hurt hurts"
    " hurting onslaught siege strangl* smother* war"
)
# Words that call a flow bad where it is their subject, and good where they are denied.
_BAD = (
    "bad wrong wrongful amiss harm harms harming harmed problem* concern* worry worri* worrying alarm* fear* risk*"
    " guilt* guilty afraid trouble* incident* warning ill evil-doing unsafe insecure remarkable suspicion attention"
    " objection* worrisome eyebrow* disturbing dire alert* mitigation nasty foul dubious shady untrustworthy dishonest"
)
_AGENTS = (
    "attackers attacks hackers intruders floods scans probes scanners adversaries worms bots criminals raids viruses"
)
_NEGATORS = (
    "not no never cannot neither none nothing nobody without hardly barely scarcely rarely seldom lacks lacking"
    " lacked devoid fail fails failed failing non *n't zero few little except contradict* deny denying disput* refut*"
    " oppos* against less fewer worse too"
)
# These deny what stands before them as well: "a scan is excluded".
_DENIALS = (
    "exclude exclud* exclus* reject* dismiss* discard* discount* disprov* disqualif* unlikely improbabl* implausibl*"
    " impossibl* unfounded incorrect mistaken false elsewhere nowhere absent missing untenable refuted unsupported"
)
_CONTRAST = (
    "unlike unlikes differ* depart* deviat* distinct* distinguish* separat* contrast* unusual atypical uncommon"
    " untypical inconsistent* incompatib* confus* mistak* mistook hide hides hiding hidden masquerad* mimic* imitat*"
    " disguis* pretend* blend* denied denies starv* among amongst pass passes divert* apart instead surpass* outpac*"
    " unrelated irrelevant diverg* dissimilar contrary discriminat* drown* displac* crowd* impersonat* lure* fool*"
    " trick* reserved beside cloak* seemingly outward* ostensibl* purported* superficial* almost nearly"
)
_VERBS = (
    "is are was were be been can am 's seem* appear* look looks looked looking sound sounds prov* remain* stay*"
    " constitut* represent* indicat* suggest* show* reveal* exhibit* display* point points signal* impl* mean means"
    " denot* involv* contain* carry carries carrying bear* has have had having do does did resembl* match* fit fits"
    " fitting correspond* call* consider* regard* classif* categor* treat* view* see sees seen saw find finds found"
    " detect* observ* turn* becom* qualif* amount* count counts belong* explain* speak* recogni* term termed describ*"
    " reflect* identif* conclud* exist* say says said came come comes made makes make behav* act acts acting work"
    " works working raise raises pose* associate* justif* label* happen* deserve* warrant* want* try tries tried"
    " trying intend* plan* aim aims aimed making doing giv* think"
)
_EVIDENCE = (
    "sign signs hint* evidence indication* trace traces mark marks hallmark* symptom* proof clue* reason reasons"
    " cause need ground grounds form kind sort type part attempt attempts act instance example piece characteristic*"
    " case cases intent* intention* purpose purposes motive* element elements feature* anything something signature*"
    " question talk shred suspicion likeness possibility existence presence member object target*"
)
_CONDITION = "if whenever where when although though while whereas whilst suppose* imagin* unless albeit"
_BREAKS = "but yet so because since therefore hence thus however nevertheless"

VERDICT = Alphabet(
    {
        "l": "alone",
        "z": "lack absence want",
        "T": "that",
        "N": _NEGATORS,
        "n": _DENIALS,
        "c": _CONTRAST,
        ">": "than versus vs above below beyond outside exceed*",
        "B": _BENIGN,
        "b": _NORMAL,
        "q": _ATTRIBUTE,
        "P": _AGENTS,
        "M": _MALICE,
        "m": _BAD,
        "V": "victim victims botnet* bot virus trojan ransom* ddos dos recon reconnaissance flooded flooding scanned"
        " spoofed poisoned probing probed worm backdoor* exfiltrat* beacon* bruteforce c2",
        "j": _BREAKS,
        "k": f"{_CONDITION} each",
        "w": "would could might should *'d",
        "g": "usually typically normally generally often tend tends sometimes commonly many occasionally needs"
        " requires require need",
        "F": "flood flooder scan scanning scanner spoofing spoofer spoof poisoning slowloris fingerprinting",
        "r": "which who whom whose",
        "t": "this these those it he she they we one here there everything somebody someone what i you its ones",
        "y": "all every both",
        "S": _FLOW,
        "f": _FORM,
        "H": _HOST,
        "Z": " ".join(f"{word}s" for word in f"{_FLOW} {_FORM} {_HOST}".split()) + " activities parties processes",
        "v": _VERBS,
        "E": _EVIDENCE,
        "d": "a an the any some such their his our my actual true single slight clear obvious other another typical"
        " known security cyber",
        "o": "and or nor",
        "p": "of in on for to as with by from at like about into towards under within inside between via over during",
        "A": "answer verdict guess choice name bet diagnosis reading conclusion pick word term favourite candidate"
        " favorite explanation classification",
        "e": "account accounts cover covers suit suits accounted",
        "h": "size sizes rate rates timing header headers payload duration gap gaps value number count ratio volume"
        " pace length range level levels",
        "a": "*ly being also really at so quite rather very just only even still too ever much well far almost again"
        " now truly pure sheer more",
    }
)

_STATED = (  # a class is stated so, and a label
    "stated specified told assign* disclos* reveal* announc* communicat* dictated declared prescrib* designated"
    " mentioned named marked labelled labeled said written stamped quoted stipulat* ascribed prelabelled prelabeled"
    " preclassified"
)
_GIVEN = (  # a label is given so; a class is given by its values as well
    "given provid* suppl* handed receiv* furnish* deliver* preset predetermin* preassigned predefin* pre settled"
    " fixed known established passed preordained foregone presupposed issued conveyed relayed listed forwarded"
    " indicated put imposed entrusted transmitted granted presented decided allocat* identified shared"
)
GIVEN = Alphabet(
    {
        "Y": "you your yours yourself thank thanks groundtruth annotator annotators questioner requester prompter"
        " labeller labeler oracle curators labellers",
        "L": "label labels annotation annotations tag labelling labeling",
        "l": "class category classification verdict diagnosis solution categorisation categorization",
        "A": "answer outcome result",
        "K": "true correct right actual official reference expected gold golden real wished desired intended",
        "I": "i we me us my",
        "U": "user teacher operator analyst expert experts person caller customer client asker examiner",
        "Q": "prompt prompts instruction instructions metadata ticket exercise briefing brief task question dataset"
        " homework",
        "W": "request description input message wording order query statement specification caption assignment",
        "R": "say says state states tell tells name names specify specifies identify identifies designate designates"
        " mark marks give gives gave read reads write writes wrote want wants wanted require requires demand"
        " demands mention mentions settle settles decide decides call calls indicate indicates declare declares"
        " presuppose presupposes contain contains list lists insist insists describe describes dictate dictates"
        " provide provides show shows knows",
        "B": "accompan* attach* annotat* tagged enclosed bundled appended included",
        "D": "per according",
        "n": "told inform* instruct* ask asks asked tasked supposed required requested ordered commanded briefed"
        " prompted",
        "k": "know knew knowing aware knowledge",
        "u": "accept* repeat* believ* assum* follow* trust* adopt* obey* echo* got agree* confirm* align* rely"
        " relies going match* accord*",
        "z": "beforehand advance upfront upstream prior start outset begin beginning already ahead",
        "G": _STATED,
        "g": _GIVEN,
        "e": "explain explaining explained justify justifying justification explanation argue arguing defend"
        " rationalise rationalize motivate",
        "v": "is are was were be been being has have had am 's does do did gets stands stand",
        "s": "as",
        "h": "there here",
        "w": "why",
        "d": "the this that it its these those such any her his their",
        "a": "only just also never not no merely all too even ever a an itself *ly",
        "p": "of in with",
        "y": "by from through via",
        "P": "on to at for into after like within inside under",
        "o": "and or",
    }
)
