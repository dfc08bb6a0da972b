from .group import RankError as RankError
from .launch import Launch as Launch
from .launch import launched as launched
from .ranks import Ranks as Ranks
from .ranks import start as start
from .speaking import await_end as await_end
from .speaking import speaks_first as speaks_first
from .speaking import tell_end as tell_end
