/** The page that lists conversations. */

import { keepFresh } from "./fresh.js";

keepFresh("conversations");
