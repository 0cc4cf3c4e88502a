# SPDX-License-Identifier: GPL-3.0-or-later
"""German, tooltips and long sentences."""

# fmt: off
SENTENCES: dict[str, str] = {
    "Stop the installation. Pressing Install Server again goes on from there":
        "Die Installation anhalten. Server installieren macht von dort weiter",
    "{name} has no resolution {resolution}; it has {known}.":
        "{name} hat keine Auflösung {resolution}; es hat {known}.",
    "{name} is {value}; this server takes {low} to {high}.":
        "{name} ist {value}; dieser Server nimmt {low} bis {high}.",
    "The weights of {name} are not installed on this server.":
        "Die Gewichte von {name} sind auf diesem Server nicht installiert.",
    "Make a mesh of each dropped picture, at the place where it was dropped":
        "Aus jedem abgelegten Bild ein Mesh machen, dort wo es abgelegt wurde",
    "Where the first mesh will stand; without it at the 3D cursor":
        "Wo das erste Mesh stehen wird; ohne Angabe am 3D-Cursor",
    "The server is not running. Press Start; the picture is sent then":
        "Der Server läuft nicht. Drücke Starten, dann wird das Bild gesendet",
    "It goes on at the server. Wait longer, or cancel it":
        "Er läuft auf dem Server weiter. Warte länger oder brich ihn ab",
    "The server ended by itself and is started again": "Der Server hat sich beendet und wird neu gestartet",
    "The extension made a mistake: {error}. Press Doctor":
        "Die Erweiterung hat einen Fehler gemacht: {error}. Drücke Diagnose",
    "The mesh cannot be put into the scene: {error}": "Das Mesh kann nicht in die Szene gesetzt werden: {error}",
    "Examine extension, server and device, and put one report into a text and the clipboard":
        "Erweiterung, Server und Gerät untersuchen und einen Bericht in einen Text und die Zwischenablage legen",
    "Stay until the server's own examination is done. For scripts":
        "Bleiben, bis die Untersuchung des Servers fertig ist. Für Skripte",
    "The report is in the text {name} and in the clipboard":
        "Der Bericht steht im Text {name} und in der Zwischenablage",
    "Make a mesh of the object in the picture. Shift-click for four results, each with another seed":
        "Ein Mesh des Gegenstands im Bild machen. Umschalt-Klick für vier Ergebnisse, jedes mit anderem Startwert",
    "Picture file. Empty: the image, or the scene's picture": "Bilddatei. Leer: das Bild in Blender oder das der Szene",
    "Name of a Blender image. Empty: the scene's picture": "Name eines Bilds in Blender. Leer: das Bild der Szene",
    "Stay until the mesh is in the scene. For scripts; works in background mode too":
        "Bleiben, bis das Mesh in der Szene ist. Für Skripte, auch im Hintergrundmodus",
    "Where the first result is put, instead of Place At": "Wohin das erste Ergebnis kommt, anstelle von Platzieren",
    "Start this machine's server when it is not running": "Den Server dieses Rechners starten, wenn er nicht läuft",
    "From now on Generate starts the server without asking": "Von nun an startet Erzeugen den Server, ohne zu fragen",
    "The server cannot take jobs now; its line says why":
        "Der Server kann gerade keine Aufträge annehmen; seine Zeile sagt, warum",
    "Choose one in the panel, or give filepath or image": "Wähle eines im Panel oder gib filepath oder image an",
    "Cancel this job. One that waits ends at once, one that runs at its next step":
        "Diesen Auftrag abbrechen. Ein wartender endet sofort, ein laufender beim nächsten Schritt",
    "Put the finished mesh into the scene, at the 3D cursor with the size that is set":
        "Das fertige Mesh in die Szene setzen, am 3D-Cursor und in der eingestellten Größe",
    "Make it again from the same picture with the same options, beside the first":
        "Noch einmal aus demselben Bild mit denselben Optionen machen, neben das erste",
    "Copy a script that makes this result again to the clipboard":
        "Ein Skript, das dieses Ergebnis noch einmal macht, in die Zwischenablage kopieren",
    "Delete this job and its files from the server. Objects in the scene stay":
        "Diesen Auftrag und seine Dateien vom Server löschen. Objekte in der Szene bleiben",
    "Delete all finished jobs and their files from the server. Objects in the scene stay":
        "Alle fertigen Aufträge und ihre Dateien vom Server löschen. Objekte in der Szene bleiben",
    "Stay until it is done. For scripts; works in background mode too":
        "Bleiben, bis es fertig ist. Für Skripte, auch im Hintergrundmodus",
    "The job's number on the server. Empty: the newest": "Die Nummer des Auftrags auf dem Server. Leer: der neueste",
    "Take the picture that was copied in another program":
        "Das Bild nehmen, das in einem anderen Programm kopiert wurde",
    "Render the scene's camera at its set resolution and take that picture. Blender waits for the render":
        "Die Kamera der Szene in der eingestellten Auflösung rendern und dieses Bild nehmen. Blender "
        "wartet auf das Rendern",
    "Take a picture of the 3D viewport as it is now, without its overlays":
        "Ein Bild des 3D-Viewports nehmen, wie er jetzt ist, ohne Overlays",
    "{file} cannot be opened as a picture. Choose another, or save it as PNG.":
        "{file} lässt sich nicht als Bild öffnen. Wähle ein anderes oder speichere es als PNG.",
    "Look for the server again and read its list of jobs": "Den Server noch einmal suchen und seine Aufträge lesen",
    "Start the server of this machine, or use the one that runs":
        "Den Server dieses Rechners starten oder den nehmen, der läuft",
    "Stop the server that this Blender started. A running job goes on at its next start":
        "Den Server anhalten, den dieses Blender gestartet hat. Ein laufender Auftrag geht beim nächsten Start weiter",
    "Free the GPU's memory for rendering. The next job loads the model again":
        "Den Speicher der GPU für das Rendern freigeben. Der nächste Auftrag lädt das Modell neu",
    "Show the end of the server's log as a text in this file":
        "Das Ende des Server-Protokolls als Text in dieser Datei zeigen",
    "Install the server in a folder of its own, with its own Python packages. Tells the sizes and asks first":
        "Den Server in einem eigenen Ordner mit eigenen Python-Paketen installieren. Nennt die Größen und fragt vorher",
    "For this session only. Empty: as in the preferences": "Nur für diese Sitzung. Leer: wie in den Einstellungen",
    "That the sizes are known; a script sets it, the dialog does it for you":
        "Dass die Größen bekannt sind; ein Skript setzt es, der Dialog tut es von selbst",
    "The server is being installed; the panel shows how far": "Der Server wird installiert; das Panel zeigt, wie weit",
    "The address in the preferences is another machine's":
        "Die Adresse in den Einstellungen gehört einem anderen Rechner",
    "Online Access is off; switch it on in Preferences > System first":
        "Der Online-Zugriff ist aus; schalte ihn zuerst unter Einstellungen > System ein",
    "Address of the server, as http://127.0.0.1:8493. Empty: the running server of this machine":
        "Adresse des Servers, etwa http://127.0.0.1:8493. Leer: der laufende Server dieses Rechners",
    "Token of the server at that address; `s2mesh token` prints it. Empty: this machine's own":
        "Token des Servers an dieser Adresse; `s2mesh token` gibt es aus. Leer: das dieses Rechners",
    "Folder of the S2 Mesh server: a copy of its repository. Empty: where Install Server puts it":
        "Ordner des S2-Mesh-Servers: eine Kopie seines Repositorys. Leer: wohin Server installieren ihn legt",
    "Python that has the server installed. Empty: the one in the server folder":
        "Python, in dem der Server installiert ist. Leer: das im Server-Ordner",
    "Zip of an S2 Mesh release, a file or an address, that Install Server unpacks where the server folder has none":
        "Zip einer S2-Mesh-Version, Datei oder Adresse, das Server installieren entpackt, wo der "
        "Server-Ordner leer ist",
    "Where the server keeps jobs and its token. Empty: the server's usual folder":
        "Wo der Server Aufträge und sein Token hält. Leer: sein üblicher Ordner",
    "Whether Generate starts the server of this machine when it is not running":
        "Ob Erzeugen den Server dieses Rechners startet, wenn er nicht läuft",
    "Minutes without a job after which a server that Blender started frees its memory; 0: never":
        "Minuten ohne Auftrag, nach denen ein von Blender gestarteter Server seinen Speicher freigibt; 0: nie",
    "Where results and thumbnails are kept. Empty: the extension's own folder":
        "Wo Ergebnisse und Vorschaubilder liegen. Leer: der eigene Ordner der Erweiterung",
    "Megabytes of results to keep; the oldest go first. They can be fetched from the server again":
        "So viele Megabyte an Ergebnissen behalten; die ältesten gehen zuerst. Der Server gibt sie noch einmal",
    "Length of the longest side of results, in scenes that have not set their own":
        "Länge der längsten Seite von Ergebnissen in Szenen, die keine eigene haben",
    "Shade results smooth, in scenes that have not set their own":
        "Ergebnisse glatt schattieren in Szenen, die nichts anderes eingestellt haben",
    "Give new results a plain clay material instead of none":
        "Neuen Ergebnissen ein schlichtes Ton-Material geben statt keines",
    "Mark new results as assets, so that the asset browser shows them":
        "Neue Ergebnisse als Assets markieren, damit der Asset-Browser sie zeigt",
    "Keep the settings of model, quality and faces as a preset, or remove one":
        "Die Einstellungen von Modell, Qualität und Flächen als Vorgabe behalten oder eine entfernen",
    "The origin is in the middle of the underside, so that the object stands on the ground":
        "Der Ursprung ist in der Mitte der Unterseite, so dass das Objekt auf dem Boden steht",
    "The origin is in the middle of the bounding box": "Der Ursprung ist in der Mitte des umgebenden Quaders",
    "Place the result at the 3D cursor, as it is when you click Generate":
        "Das Ergebnis an den 3D-Cursor setzen, wie er beim Klick auf Erzeugen steht",
    "Use the picture's transparency; without any, cut a plain background away":
        "Die Transparenz des Bilds nehmen; gibt es keine, einen einfarbigen Hintergrund wegschneiden",
    "The model tells inside from outside, if it has a network for that":
        "Das Modell unterscheidet innen und außen, falls es ein Netz dafür hat",
    "Where the random numbers start: another seed gives another shape, the same gives the same":
        "Wo die Zufallszahlen beginnen: ein anderer Startwert gibt eine andere Form, derselbe dieselbe",
    "Stop after the detail stage of so many voxels a side: faster and coarser. 0: the model's last":
        "Nach der Detailstufe mit so vielen Voxeln je Seite aufhören: schneller und gröber. 0: die letzte des Modells",
    "Set of models that makes the shape. Empty: the server's own choice":
        "Die Modelle, die die Form machen. Leer: die Wahl des Servers",
    "Simplify the mesh to at most so many triangles": "Das Mesh auf höchstens so viele Dreiecke vereinfachen",
    "Sampling steps of the coarse shape; more take longer": "Schritte für die grobe Form; mehr dauern länger",
    "Sampling steps of each detail stage; more take longer": "Schritte jeder Detailstufe; mehr dauern länger",
    "How closely the coarse shape follows the picture; 0 and 1 are without guidance":
        "Wie genau die grobe Form dem Bild folgt; 0 und 1 sind ohne Führung",
    "How closely the details follow the picture; 0 and 1 are without guidance":
        "Wie genau die Details dem Bild folgen; 0 und 1 sind ohne Führung",
    "Where the surface is cut, from inside (-1) to outside (1); more is thicker":
        "Wo die Oberfläche liegt, von innen (-1) bis außen (1); mehr ist dicker",
    "Refuse a shape with more occupied cells than this, to save memory":
        "Eine Form mit mehr belegten Zellen ablehnen, um Speicher zu sparen",
    "Give the active mesh object the new shape; its transform, materials and modifiers stay":
        "Dem aktiven Mesh-Objekt die neue Form geben; Transformation, Materialien und Modifikatoren bleiben",
    "How many results to make, each with another seed; they are set in a row":
        "Wie viele Ergebnisse, jedes mit anderem Startwert; sie stehen in einer Reihe",
    "Picture of the object. One object, seen from slightly above, on a plain or transparent background works best":
        "Bild des Gegenstands. Am besten ein Gegenstand, leicht von oben gesehen, vor einfarbigem oder "
        "transparentem Hintergrund",
    "Draw a new seed for every result, so that each click gives another shape":
        "Für jedes Ergebnis einen neuen Startwert ziehen, so dass jeder Klick eine andere Form gibt",
    "Choose the folder of its repository, or a release archive, in the extension's preferences":
        "Wähle in den Einstellungen der Erweiterung den Ordner seines Repositorys oder ein Archiv",
}
