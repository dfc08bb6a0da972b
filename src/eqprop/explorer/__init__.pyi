from .description import Arrays as Arrays
from .description import described_network as described_network
from .page_file import explorer_page as explorer_page
